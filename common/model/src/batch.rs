//! Batches on the host: the tensors of some requests at a cut point, which is what engines take and give.

use std::fmt;

use crate::cut::Cut;
use crate::dim::DType;
use crate::tensor::Tensor;
use crate::tensor_error::TensorError;

/// The tensors of some requests at a cut point, in the cut point's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// At least one; all hold the same number of requests.
    tensors: Vec<Tensor>,
}

/// One request's tensors as they were sent: one after the other, little-endian.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'b> {
    /// Type of the elements, for each tensor.
    pub types: &'b [DType],
    /// The elements.
    pub bytes: &'b [u8],
}

impl Batch {
    /// A batch of tensors. `Err`: there is none, or they hold different numbers of requests.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, TensorError> {
        let first = tensors.first().map(Tensor::requests);
        if first.is_some() && tensors.iter().all(|t| Some(t.requests()) == first) {
            return Ok(Batch { tensors });
        }
        Err(TensorError::Requests(
            tensors.iter().map(Tensor::requests).collect(),
        ))
    }

    /// A batch for a cut point, from its requests as they were sent.
    pub fn from_requests(cut: &Cut, requests: &[Sent<'_>]) -> Result<Self, TensorError> {
        let parts = requests.iter().map(|sent| cut.apart(sent.types, sent.bytes));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let tensors = cut.tensors.iter().enumerate().map(|(i, spec)| {
            let rows = requests.iter().zip(&parts);
            let rows: Vec<(DType, &[u8])> = rows.map(|(sent, parts)| (sent.types[i], parts[i])).collect();
            Tensor::from_requests(spec, &rows)
        });
        Batch::new(tensors.collect::<Result<_, _>>()?)
    }

    /// Makes floats that are all but zero zeros: [`Tensor::flush_tiny`].
    pub fn flush_tiny(&mut self) {
        self.tensors.iter_mut().for_each(Tensor::flush_tiny);
    }

    /// Number of requests.
    pub fn requests(&self) -> usize {
        self.tensors.first().map_or(0, Tensor::requests)
    }

    /// Its tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Takes the tensors out of the batch.
    pub fn into_tensors(self) -> Vec<Tensor> {
        self.tensors
    }

    /// The tensor, where there is only one.
    pub fn only(&self) -> Option<&Tensor> {
        match self.tensors.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Whether it holds what crosses at a cut point, for one request or more.
    pub fn fits(&self, cut: &Cut) -> bool {
        let mut pairs = self.tensors.iter().zip(&cut.tensors);
        self.requests() > 0
            && self.tensors.len() == cut.tensors.len()
            && pairs.all(|(tensor, spec)| tensor.fits(spec))
    }

    /// Whether all elements are 32-bit floats.
    pub fn is_float(&self) -> bool {
        self.tensors.iter().all(|t| t.dtype() == DType::F32)
    }

    /// Whether there is neither NaN nor an infinite number among the elements.
    pub fn is_finite(&self) -> bool {
        self.tensors.iter().all(Tensor::is_finite)
    }

    /// One request, as a batch of one. `None`: there is no such request.
    pub fn row(&self, row: usize) -> Option<Batch> {
        let tensors = self.tensors.iter().map(|t| t.row(row));
        let tensors = tensors.collect::<Option<_>>()?;
        Some(Batch { tensors })
    }

    /// Batches of one cut point joined. `None`: none, or of different shapes or types.
    pub fn join(parts: &[Batch]) -> Option<Batch> {
        let first = parts.first()?;
        if parts.iter().any(|p| p.tensors.len() != first.tensors.len()) {
            return None;
        }
        let joined = (0..first.tensors.len()).map(|i| Tensor::join(parts.iter().map(|p| &p.tensors[i])));
        let tensors = joined.collect::<Option<_>>()?;
        Some(Batch { tensors })
    }

    /// The bytes of a batch of one to send, as [`Sent`] describes them, with elements of these types.
    pub fn to_bytes(&self, types: &[DType]) -> Result<Vec<u8>, TensorError> {
        if self.requests() != 1 {
            return Err(TensorError::Requests(vec![self.requests()]));
        }
        if let ([tensor], [dtype]) = (self.tensors.as_slice(), types) {
            return tensor.to_bytes(*dtype);
        }
        if types.len() != self.tensors.len() {
            return Err(TensorError::Count {
                got: types.len(),
                want: self.to_string(),
            });
        }
        let mut out = vec![];
        for (tensor, &dtype) in self.tensors.iter().zip(types) {
            out.extend(tensor.to_bytes(dtype)?);
        }
        Ok(out)
    }

    /// Largest difference of two batches' elements, and the largest magnitude in `self`: of the tensor that differs most
    /// for its magnitude. `None`: shapes or types differ.
    pub fn difference(&self, other: &Batch) -> Option<Discrepancy> {
        if self.tensors.len() != other.tensors.len() {
            return None;
        }
        let pairs = self.tensors.iter().zip(&other.tensors);
        let each = pairs.map(|(a, b)| a.difference(b));
        let each = each.collect::<Option<Vec<_>>>()?;
        let all = each.into_iter().map(|(most, of)| Discrepancy { most, of });
        Some(all.fold(Discrepancy::default(), Discrepancy::or_larger))
    }

    /// A reproducible batch for a cut point, as [`Tensor::pseudo_random`] makes its tensors.
    pub fn pseudo_random(cut: &Cut, requests: usize, seed: u64) -> Batch {
        let seeds = (0..).map(|i: u64| seed.wrapping_add(i << 32));
        let tensors = cut.tensors.iter().zip(seeds);
        Batch {
            tensors: tensors
                .map(|(spec, seed)| Tensor::pseudo_random(spec, requests, seed))
                .collect(),
        }
    }

    /// A batch for a cut point whose elements are all 0.
    pub fn zeros(cut: &Cut, requests: usize) -> Batch {
        let tensors = cut.tensors.iter();
        Batch {
            tensors: tensors.map(|spec| Tensor::zeros(spec, requests)).collect(),
        }
    }
}

impl From<Tensor> for Batch {
    fn from(tensor: Tensor) -> Self {
        Batch {
            tensors: vec![tensor],
        }
    }
}

/// Shapes and types of the tensors, as messages show them.
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tensor) in self.tensors.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{:?} {}", tensor.shape(), tensor.dtype())?;
        }
        Ok(())
    }
}

/// Discrepancy of numbers from those that are right.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Discrepancy {
    /// Largest difference of an element; infinite where one of two is no number.
    pub most: f64,
    /// Largest finite magnitude of the right elements.
    pub of: f64,
}

impl Discrepancy {
    /// Two lists that can't be compared: they have other shapes.
    pub const INCOMPARABLE: Discrepancy = Discrepancy {
        most: f64::INFINITY,
        of: 0.0,
    };

    /// The largest difference as a part of the largest magnitude.
    pub fn relative(self) -> f64 {
        if self.most == 0.0 {
            0.0
        } else {
            self.most / self.of.max(f64::MIN_POSITIVE)
        }
    }

    /// Whether the difference is at most this part of the magnitude.
    pub fn within(self, part: f64) -> bool {
        self.most <= part * self.of
    }

    /// The one of two that is larger for its magnitude.
    pub fn or_larger(self, other: Discrepancy) -> Discrepancy {
        let larger = other.relative() > self.relative();
        let equal = other.relative() == self.relative() && other.of > self.of;
        if larger || equal { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::TensorSpec;
    use crate::tensor::Elements;

    fn spec(name: &str, shape: &[usize], dtype: DType) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype,
            elements: shape.iter().product(),
            batch_axis: 0,
        }
    }

    fn words_and_mask() -> Cut {
        Cut {
            tensors: vec![
                spec("hidden", &[2, 2], DType::F32),
                spec("mask", &[3], DType::Bool),
            ],
        }
    }

    #[test]
    fn what_is_sent_comes_back_tensor_by_tensor() {
        let cut = words_and_mask();
        let batch = Batch::pseudo_random(&cut, 3, 5);
        for float in [DType::F32, DType::F16] {
            let types = cut.types_sent(float);
            let rows: Vec<Vec<u8>> = (0..3)
                .map(|r| batch.row(r).unwrap().to_bytes(&types).unwrap())
                .collect();
            assert!(rows.iter().all(|r| r.len() == cut.bytes_sent(float)));
            let sent: Vec<Sent<'_>> = rows.iter().map(|bytes| Sent { types: &types, bytes }).collect();
            let again = Batch::from_requests(&cut, &sent).unwrap();
            assert!(again.fits(&cut));
            assert!(batch.difference(&again).unwrap().most < 1e-3);
            assert_eq!(batch.tensors()[1], again.tensors()[1]);
        }
    }

    #[test]
    fn a_request_with_a_tensor_too_few_or_bytes_too_many_is_refused() {
        let cut = words_and_mask();
        let types = [DType::F32, DType::Bool];
        assert!(cut.check(&types, 19).is_ok());
        assert!(matches!(
            cut.check(&types, 20),
            Err(TensorError::Bytes { want: 19, .. })
        ));
        assert!(matches!(
            cut.check(&types[..1], 16),
            Err(TensorError::Count { got: 1, .. })
        ));
        let odd = [DType::Bool, DType::Bool];
        assert!(matches!(cut.check(&odd, 7), Err(TensorError::Type { .. })));
        assert!(Batch::pseudo_random(&cut, 2, 1).to_bytes(&types).is_err());
    }

    #[test]
    fn a_small_tensor_that_differs_is_not_hidden_by_a_large_one() {
        let of = |large: f32, small: f32| {
            let tensor = |v: f32| Tensor::new(1, vec![1], Elements::F32(vec![v])).unwrap();
            Batch::new(vec![tensor(large), tensor(small)]).unwrap()
        };
        let found = of(1000.0, 0.5).difference(&of(1000.001, 0.25)).unwrap();
        assert_eq!(found, Discrepancy { most: 0.25, of: 0.5 });
    }
}
