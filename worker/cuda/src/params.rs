//! A kernel's parameters, as its structure lies in memory; places in memory are filled in before a launch.

/// Where a pointer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Nowhere: null.
    Null,
    /// A part of the arena.
    Slot(usize),
    /// Weights.
    Weight(usize),
    /// An input of the program.
    Input(usize),
    /// An output.
    Output(usize),
    /// Partial sums of a partition.
    Partial,
    /// Counters of a partition; 0 before and after each launch.
    Arrived,
    /// Where kernels tell of inputs that they can't serve.
    Fault,
}

/// A place, and bytes beyond its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The place.
    pub place: Place,
    /// Bytes.
    pub offset: u64,
}

impl At {
    /// Nowhere.
    pub const NULL: At = At {
        place: Place::Null,
        offset: 0,
    };
}

/// What is done to each element after a sum; numbers are those of `kernels/common.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// Not below 0.
    Relu,
    /// Between two limits.
    Clip(f32, f32),
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// x / (1 + e^-x)
    Silu,
    /// By the error function.
    Gelu,
    /// By the hyperbolic tangent.
    GeluTanh,
    /// x * min(max(x / 6 + 1 / 2, 0), 1)
    HardSwish,
    /// min(max(a x + b, 0), 1)
    HardSigmoid(f32, f32),
    /// The hyperbolic tangent.
    Tanh,
    /// a x below 0.
    LeakyRelu(f32),
    /// a (e^x - 1) below 0.
    Elu(f32),
}

impl Activation {
    fn numbers(self) -> (u32, f32, f32) {
        match self {
            Activation::None => (0, 0.0, 0.0),
            Activation::Relu => (1, 0.0, 0.0),
            Activation::Clip(low, high) => (2, low, high),
            Activation::Sigmoid => (3, 0.0, 0.0),
            Activation::Silu => (4, 0.0, 0.0),
            Activation::Gelu => (5, 0.0, 0.0),
            Activation::GeluTanh => (6, 0.0, 0.0),
            Activation::HardSwish => (7, 0.0, 0.0),
            Activation::HardSigmoid(a, b) => (8, a, b),
            Activation::Tanh => (9, 0.0, 0.0),
            Activation::LeakyRelu(a) => (10, a, 0.0),
            Activation::Elu(a) => (11, a, 0.0),
        }
    }

    /// What it computes, in fp64.
    pub fn of(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Clip(low, high) => x.max(f64::from(low)).min(f64::from(high)),
            Activation::Sigmoid => sigmoid(x),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => 0.5 * x * (1.0 + crate::reference::erf(x / std::f64::consts::SQRT_2)),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::HardSigmoid(a, b) => (f64::from(a) * x + f64::from(b)).clamp(0.0, 1.0),
            Activation::Tanh => x.tanh(),
            Activation::LeakyRelu(a) if x < 0.0 => f64::from(a) * x,
            Activation::Elu(a) if x < 0.0 => f64::from(a) * (x.exp() - 1.0),
            Activation::LeakyRelu(_) | Activation::Elu(_) => x,
        }
    }
}

/// Dimensions of a view at most; as in `kernels/strided.cuh`.
pub const MAX_DIMS: usize = 6;

/// Writes a structure: each field at the next place of its alignment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params {
    bytes: Vec<u8>,
    pointers: Vec<(usize, At)>,
}

impl Params {
    fn align(mut self, to: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }

    /// A pointer.
    pub fn at(self, at: At) -> Self {
        let mut out = self.align(8);
        out.pointers.push((out.bytes.len(), at));
        out.bytes.extend([0; 8]);
        out
    }

    /// A 32-bit number.
    pub fn u32(self, n: usize) -> Self {
        let mut out = self.align(4);
        out.bytes
            .extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        out
    }

    /// A 32-bit number with a sign.
    pub fn i32(self, n: i64) -> Self {
        let mut out = self.align(4);
        out.bytes
            .extend(i32::try_from(n).unwrap_or(i32::MAX).to_le_bytes());
        out
    }

    /// Several of them.
    pub fn i32s(self, all: &[i64]) -> Self {
        all.iter().fold(self, |out, &n| out.i32(n))
    }

    /// A float.
    pub fn f32(self, x: f32) -> Self {
        let mut out = self.align(4);
        out.bytes.extend(x.to_le_bytes());
        out
    }

    /// A divisor: itself, a multiplier and a shift. After: Granlund, Montgomery, "Division by invariant integers using
    /// multiplication", 1994; right for all numbers below 2^31.
    pub fn divisor(self, d: usize) -> Self {
        let d = u32::try_from(d).unwrap_or(u32::MAX).max(1);
        if d == 1 {
            return self.u32(1).u32(0).u32(0);
        }
        let shift = 31 - (d - 1).leading_zeros();
        let multiplier = (1u64 << (32 + shift)).div_ceil(u64::from(d));
        self.u32(d as usize).u32(multiplier as usize).u32(shift as usize)
    }

    /// Several of them, the last ones of `MAX_DIMS`; those before are 1.
    pub fn divisors(self, sizes: &[usize]) -> Self {
        let before = (sizes.len()..MAX_DIMS).fold(self, |out, _| out.divisor(1));
        sizes.iter().fold(before, |out, &d| out.divisor(d))
    }

    /// An activation.
    pub fn activation(self, activation: Activation) -> Self {
        let (kind, a, b) = activation.numbers();
        self.u32(kind as usize).f32(a).f32(b)
    }

    /// A view, the last of its `MAX_DIMS` strides; those before are 0.
    pub fn view(self, at: At, element: Element, strides: &[i64]) -> Self {
        let mut out = self.at(at).u32(element as usize);
        out = (strides.len()..MAX_DIMS).fold(out, |out, _| out.i32(0));
        out.i32s(strides).align(8)
    }

    /// A view of nothing.
    pub fn no_view(self) -> Self {
        self.view(At::NULL, Element::F16, &[])
    }

    /// The structure, with pointers filled in.
    pub fn filled(&self, address: impl Fn(Place) -> u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for &(offset, at) in &self.pointers {
            let value = match at.place {
                Place::Null => 0,
                place => address(place) + at.offset,
            };
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// Names another place instead of one.
    pub fn replace(&mut self, old: Place, new: Place) {
        for (_, at) in self.pointers.iter_mut().filter(|(_, at)| at.place == old) {
            at.place = new;
        }
    }

    /// The places that it names.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.pointers.iter().map(|(_, at)| at.place)
    }
}

/// Types of elements in the device's memory; numbers are those of `kernels/strided.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Element {
    F16 = 0,
    F32 = 1,
    I32 = 2,
    I64 = 3,
    U8 = 4,
    I8 = 5,
    Bool = 6,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 | Element::I8 | Element::Bool => 1,
            Element::F16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::I64 => 8,
        }
    }

    /// Whether it is a float.
    pub fn is_float(self) -> bool {
        matches!(self, Element::F16 | Element::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divisor_divides_like_division() {
        for d in [1usize, 2, 3, 5, 7, 31, 112, 1000, 65_535, 1 << 20, (1 << 31) - 1] {
            let bytes = Params::default().divisor(d).filled(|_| 0);
            let word = |i: usize| {
                u32::from_le_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]])
            };
            let (multiplier, shift) = (u64::from(word(1)), word(2));
            let edges = [
                0u64,
                1,
                d as u64 - 1,
                d as u64,
                d as u64 + 1,
                12_345_678,
                (1 << 31) - 1,
            ];
            for n in edges {
                let quotient = if multiplier == 0 {
                    n
                } else {
                    (n * multiplier) >> 32 >> shift
                };
                assert_eq!(quotient, n / d as u64, "{n} / {d}");
            }
        }
    }

    #[test]
    fn a_view_is_padded_to_its_pointer() {
        let params = Params::default()
            .u32(1)
            .view(At::NULL, Element::F32, &[4, 1])
            .u32(7);
        let bytes = params.filled(|_| 0);
        assert_eq!(bytes.len(), 8 + 40 + 8);
        assert_eq!(bytes[16], 1);
        assert_eq!(bytes[36..44], [4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[48], 7);
    }
}
