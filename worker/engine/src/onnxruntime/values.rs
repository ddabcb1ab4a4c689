//! Tensors of onnxruntime from ours, and back.

use graft_model::{DType, Elements, Tensor, TensorSpec};
use half::f16;
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType};

use crate::error::Cause;

/// A tensor of given elements, of which one stands for all; zeros where there are none.
pub(super) fn filled(spec: &TensorSpec, values: Option<&Vec<f64>>) -> Result<Tensor, Cause> {
    let at = |i: usize| match values.map(Vec::as_slice) {
        Some([one]) => *one,
        Some(all) => all.get(i).copied().unwrap_or(0.0),
        None => 0.0,
    };
    let elements = Elements::of(spec.dtype, (0..spec.elements).map(at));
    Ok(Tensor::new(1, spec.shape.clone(), elements)?)
}

/// An input of a file for a run in which all its dimensions are known.
pub(super) fn spec_of(name: &str, kind: &TensorElementType, dims: Vec<usize>) -> Result<TensorSpec, Cause> {
    Ok(TensorSpec {
        name: name.to_owned(),
        elements: dims.iter().product(),
        shape: dims,
        dtype: dtype_of(name, kind)?,
        batch_axis: 0,
    })
}

/// The element type of a tensor.
pub(super) fn dtype_of(name: &str, kind: &TensorElementType) -> Result<DType, Cause> {
    Ok(match kind {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Bool => DType::Bool,
        other => {
            return Err(Cause::ElementType {
                tensor: name.to_owned(),
                dtype: other.to_string(),
            });
        }
    })
}

/// A tensor of a shape, in the type that the model wants: 16-bit floats are held as 32-bit ones, truth values as
/// integers.
pub(super) fn input_of(spec: &TensorSpec, tensor: Tensor, shape: &[usize]) -> ort::Result<DynValue> {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    Ok(match (tensor.into_elements(), spec.dtype) {
        (Elements::F32(v), DType::F16) => {
            let halves: Vec<f16> = v.into_iter().map(f16::from_f32).collect();
            OrtTensor::from_array((shape, halves))?.into_dyn()
        }
        (Elements::F32(v), _) => OrtTensor::from_array((shape, v))?.into_dyn(),
        (Elements::I32(v), DType::Bool) => {
            let truths: Vec<bool> = v.into_iter().map(|x| x != 0).collect();
            OrtTensor::from_array((shape, truths))?.into_dyn()
        }
        (Elements::I32(v), _) => OrtTensor::from_array((shape, v))?.into_dyn(),
        (Elements::I64(v), _) => OrtTensor::from_array((shape, v))?.into_dyn(),
        (Elements::U8(v), _) => OrtTensor::from_array((shape, v))?.into_dyn(),
        (Elements::I8(v), _) => OrtTensor::from_array((shape, v))?.into_dyn(),
    })
}

pub(super) fn elements_of(dtype: DType, value: &DynValue) -> ort::Result<Elements> {
    Ok(match dtype {
        DType::F32 => Elements::F32(value.try_extract_tensor::<f32>()?.1.to_vec()),
        // No cut point has them, and 32-bit floats would not hold them.
        DType::F64 => return Err(ort::Error::new("64-bit floats are not given out")),
        DType::F16 => {
            let (_, halves) = value.try_extract_tensor::<f16>()?;
            Elements::F32(halves.iter().map(|x| x.to_f32()).collect())
        }
        DType::I32 => Elements::I32(value.try_extract_tensor::<i32>()?.1.to_vec()),
        DType::I64 => Elements::I64(value.try_extract_tensor::<i64>()?.1.to_vec()),
        DType::U8 => Elements::U8(value.try_extract_tensor::<u8>()?.1.to_vec()),
        DType::I8 => Elements::I8(value.try_extract_tensor::<i8>()?.1.to_vec()),
        DType::Bool => {
            let (_, truths) = value.try_extract_tensor::<bool>()?;
            Elements::I32(truths.iter().map(|&x| i32::from(x)).collect())
        }
    })
}
