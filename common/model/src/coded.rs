//! A request's tensors, coded as the model's features say.

use graft_features::CutCoding;

use crate::batch::Batch;
use crate::cut::{Cut, CutPoint};
use crate::dim::DType;
use crate::info::ModelInfo;
use crate::tensor::Elements;
use crate::tensor_error::TensorError;

impl ModelInfo {
    /// How a request's tensors travel in fewer bytes at a cut point, where they may.
    pub fn coding(&self, point: CutPoint) -> Option<&CutCoding> {
        self.features.0.get(&point.0)
    }

    fn coded(&self, point: CutPoint) -> Result<(&Cut, &CutCoding), TensorError> {
        let pair = self.cut(point).zip(self.coding(point));
        pair.ok_or(TensorError::NoCoding { point: point.0 })
    }

    /// Checks that `bytes` bytes may be one request's tensors, coded, and `types` those that they are decoded to.
    pub fn check_coded(&self, point: CutPoint, types: &[DType], bytes: usize) -> Result<(), TensorError> {
        let (cut, _) = self.coded(point)?;
        cut.check(types, cut.bytes_sent(DType::F32))?;
        let (least, most) = CutCoding::bytes(cut.tensors.iter().map(|t| t.elements));
        if !(least..=most).contains(&bytes) {
            let cut = cut.to_string();
            return Err(TensorError::CodedBytes {
                got: bytes,
                least,
                most,
                cut,
            });
        }
        Ok(())
    }

    /// One request's tensors, coded. `None`: they are not coded at this cut point, or hold what is no finite number.
    pub fn encode(&self, point: CutPoint, request: &Batch) -> Option<Vec<u8>> {
        let (cut, coding) = self.coded(point).ok()?;
        if request.requests() != 1 || !request.fits(cut) {
            return None;
        }
        let tensors = request.tensors().iter().map(|tensor| match tensor.elements() {
            Elements::F32(elements) => Some(elements.as_slice()),
            _ => None,
        });
        let tensors: Vec<&[f32]> = tensors.collect::<Option<_>>()?;
        coding.encode(tensors.into_iter()).ok()
    }

    /// One request's tensors from what [`encode`](Self::encode) made, as bytes of 32-bit floats.
    pub fn decode(&self, point: CutPoint, bytes: &[u8]) -> Result<Vec<u8>, TensorError> {
        let (cut, coding) = self.coded(point)?;
        let decoded = coding.decode(bytes, cut.tensors.iter().map(|t| t.elements));
        decoded.map_err(|damaged| TensorError::Damaged(damaged.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use graft_features::Features;
    use graft_features::fit::{Coarseness, fit};

    use super::*;
    use crate::batch::Sent;
    use crate::options::ReadOptions;
    use crate::{Model, ModelError, samples};

    const POINT: CutPoint = CutPoint(2);

    fn read(features: Option<Vec<u8>>) -> Result<Model, ModelError> {
        let options = ReadOptions {
            features,
            ..ReadOptions::default()
        };
        Model::parse(Path::new("m.onnx"), &samples::residual_cnn(), &options)
    }

    /// Codings of a cut point's tensors, as if there were so many channels.
    fn features(point: u16, like: CutPoint, channels: impl Fn(usize) -> usize) -> Vec<u8> {
        let model = read(None).unwrap();
        let cut = model.info().cut(like).unwrap();
        let sample = Batch::pseudo_random(cut, 1, 5);
        let coarse = Coarseness {
            step: 0.1,
            power: 1.0,
        };
        let tensors = cut.tensors.iter().zip(sample.tensors()).map(|(spec, tensor)| {
            let channels = channels(spec.elements);
            fit(
                &[tensor.floats().unwrap()],
                spec.elements / channels,
                channels,
                coarse,
            )
            .unwrap()
        });
        let coding = CutCoding {
            tensors: tensors.collect(),
            mean_bytes: 9,
        };
        Features([(point, coding)].into()).to_bytes().unwrap()
    }

    #[test]
    fn tensors_come_back_nearly_and_in_fewer_bytes() {
        let model = read(Some(features(POINT.0, POINT, |_| 4))).unwrap();
        let info = model.info();
        let cut = info.cut(POINT).unwrap();
        let sent = Batch::pseudo_random(cut, 1, 5);
        let bytes = info.encode(POINT, &sent).unwrap();
        assert!(bytes.len() * 3 < cut.bytes());
        let types = cut.types_sent(DType::F32);
        assert_eq!(info.check_coded(POINT, &types, bytes.len()), Ok(()));
        let decoded = info.decode(POINT, &bytes).unwrap();
        let row = Sent {
            types: &types,
            bytes: &decoded,
        };
        let came = Batch::from_requests(cut, &[row]).unwrap();
        let pairs = sent.tensors()[0].floats().unwrap().iter();
        let largest = pairs
            .zip(came.tensors()[0].floats().unwrap())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest > 0.0 && largest < 0.1, "{largest}");

        // What is no such request is refused before anything is decoded.
        assert!(
            info.check_coded(CutPoint(1), &types, bytes.len()).is_err(),
            "no coding"
        );
        assert!(
            info.check_coded(POINT, &[DType::F16], bytes.len()).is_err(),
            "they become 32-bit floats"
        );
        assert!(info.check_coded(POINT, &[DType::I64], bytes.len()).is_err());
        assert!(info.check_coded(POINT, &types, cut.bytes()).is_err(), "too long");
        assert!(info.check_coded(POINT, &types, 2).is_err(), "too short");
        assert!(info.decode(POINT, &bytes[1..]).is_err());
        assert!(
            info.encode(POINT, &Batch::pseudo_random(cut, 2, 5)).is_none(),
            "two requests"
        );
    }

    #[test]
    fn features_are_part_of_the_identity_and_must_be_of_the_model() {
        let plain = read(None).unwrap().info().id;
        let coded = read(Some(features(POINT.0, POINT, |_| 4))).unwrap().info().id;
        let other = read(Some(features(POINT.0, POINT, |_| 2))).unwrap().info().id;
        assert!(plain != coded && coded != other);
        let last = read(None).unwrap().info().last().0;
        for wrong in [
            features(last, POINT, |_| 4),
            features(last + 7, POINT, |_| 4),
            features(POINT.0, POINT, |n| n).iter().rev().copied().collect(),
            b"PNG".to_vec(),
        ] {
            let error = read(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("features"), "{error}");
        }
    }
}
