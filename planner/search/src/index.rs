//! Indices into the search's lists, each of a type of its own: a share's can't be taken for a stage's.

use graft_plan::Fragment;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(u32);

        impl $name {
            /// The index at a place in the list; lists of the search are far shorter than 2³².
            pub fn new(at: usize) -> Self {
                Self(u32::try_from(at).expect("a list of fewer than 2^32"))
            }

            /// The place in the list.
            pub fn get(self) -> usize {
                self.0 as usize
            }
        }
    };
}

/// Lets an index look into lists of one kind of element, and into no others.
macro_rules! looks_into {
    ($name:ident, $element:ty) => {
        impl $name {
            /// All indices into a list of this length, ascending.
            pub fn all(length: usize) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
                Self::range(0, length)
            }

            /// The indices from `first` up to, without, `end`.
            pub fn range(
                first: usize,
                end: usize,
            ) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
                (first..end).map(Self::new)
            }
        }

        impl std::ops::Index<$name> for [$element] {
            type Output = $element;

            fn index(&self, at: $name) -> &$element {
                &self[at.get()]
            }
        }

        impl std::ops::Index<$name> for Vec<$element> {
            type Output = $element;

            fn index(&self, at: $name) -> &$element {
                &self[at.get()]
            }
        }

        impl std::ops::IndexMut<$name> for Vec<$element> {
            fn index_mut(&mut self, at: $name) -> &mut $element {
                &mut self[at.get()]
            }
        }
    };
}

pub(crate) use looks_into;

index! {
    /// A fragment in the workload.
    FragmentAt
}
index! {
    /// A merged fragment: the unit of the search.
    UnitAt
}
index! {
    /// A kind of device: its profile.
    KindAt
}
index! {
    /// A share of a kind of device, in the list of all kinds' shares: each kind's stand together, ascending.
    ShareAt
}
index! {
    /// A batch limit in the profile of a partition's kind, where batch limits ascend from 1.
    BatchAt
}
index! {
    /// A stage of a cell or of a draft.
    StageAt
}
index! {
    /// A cell of the running plan.
    RunningAt
}

looks_into!(FragmentAt, Fragment);
looks_into!(BatchAt, u32);

impl BatchAt {
    /// Runs of one request.
    pub const ONE: Self = BatchAt(0);
}

impl KindAt {
    /// The first kind.
    pub const FIRST: Self = KindAt(0);
}

impl ShareAt {
    /// All indices into a list of this length, ascending.
    pub fn all(length: usize) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
        Self::range(0, length)
    }

    /// The indices from `first` up to, without, `end`.
    pub fn range(
        first: usize,
        end: usize,
    ) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + Clone {
        (first..end).map(Self::new)
    }
}

impl StageAt {
    /// The same stage where `first` others stand before those of its cell.
    pub fn after(self, first: usize) -> Self {
        Self::new(first + self.get())
    }

    /// Its id in a plan.
    pub fn id(self) -> String {
        format!("s{}", self.0)
    }
}
