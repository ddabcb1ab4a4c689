//! What kernels compute, in fp64 and as plainly as can be: they are held against these.

mod function;
mod layers;

pub use function::erf;
pub use layers::{
    Window, attention, conv, gather, group_norm, layer_norm, map, matmul, pool, reduce, resize, softmax,
};

/// A tensor, the last dimension fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// Its sizes.
    pub dims: Vec<usize>,
    /// Its elements.
    pub values: Vec<f64>,
}

impl Dense {
    /// A tensor whose elements are told by their coordinates.
    pub fn of(dims: &[usize], f: impl Fn(&[usize]) -> f64) -> Self {
        let count = dims.iter().product();
        let mut at = vec![0; dims.len()];
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(f(&at));
            for d in (0..dims.len()).rev() {
                at[d] += 1;
                if at[d] < dims[d] {
                    break;
                }
                at[d] = 0;
            }
        }
        Dense {
            dims: dims.to_vec(),
            values,
        }
    }

    /// An element.
    pub fn at(&self, at: &[usize]) -> f64 {
        let place = at.iter().zip(&self.dims).fold(0, |place, (i, d)| place * d + i);
        self.values[place]
    }

    /// An element of a tensor that is repeated along dimensions of one, and before its first.
    pub fn repeated(&self, at: &[usize]) -> f64 {
        let own = &at[at.len() - self.dims.len()..];
        let own: Vec<usize> = own
            .iter()
            .zip(&self.dims)
            .map(|(&i, &d)| if d == 1 { 0 } else { i })
            .collect();
        self.at(&own)
    }
}
