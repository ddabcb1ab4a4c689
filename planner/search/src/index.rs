//! Indices into the search's lists, each of a type of its own: a share's can't be taken for a stage's.

use graft_plan::{Fragment, Share};

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
    /// A share in the profile, where shares ascend.
    ShareAt
}
index! {
    /// A batch limit in the profile, where batch limits ascend from 1.
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
looks_into!(ShareAt, Share);
looks_into!(BatchAt, u32);

impl BatchAt {
    /// Runs of one request.
    pub const ONE: Self = BatchAt(0);
}

impl ShareAt {
    /// The smallest share.
    pub const LEAST: Self = ShareAt(0);

    /// The next smaller share. `None`: this is the smallest.
    pub fn below(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
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
