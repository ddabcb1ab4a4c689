//! Batches that stay on the device.

use std::any::Any;
use std::sync::Arc;

use graft_engine::{Cause, DeviceBatch, EngineError};
use graft_model::{Batch, CutPoint, DType, Elements, ModelInfo, StageRange, Tensor};
use half::f16;

use crate::driver::{CudaFault, Event, Primary};
use crate::params::Element;
use crate::pool::Pooled;
use crate::program::{Layout, places};

/// A tensor of a batch on the device.
#[derive(Debug)]
pub struct HeldTensor {
    /// Its memory.
    pub memory: Arc<Pooled>,
    /// How all rows that were computed together lie in it.
    pub layout: Layout,
}

/// Requests of a batch on the device.
#[derive(Debug, Clone)]
pub struct HeldBatch {
    /// The session that made it: memory of another is gone.
    pub session: u64,
    /// What is known of its model.
    pub info: Arc<ModelInfo>,
    /// The cut point at which it stands.
    pub at: CutPoint,
    /// The copying that fills the tensors, where they were gathered from others. It is dropped before them, and waits: their memory is used
    /// again as soon as they are gone.
    pub copying: Option<Arc<Copying>>,
    /// The tensors there, of all requests that were computed together.
    pub tensors: Arc<Vec<HeldTensor>>,
    /// The first of its requests among them.
    pub first: usize,
    /// How many there are.
    pub count: usize,
    /// Whether what went in was finite.
    pub finite: bool,
}

/// Copies within a device that were put in; what they read stays until they are done.
#[derive(Debug)]
pub struct Copying {
    pub primary: Arc<Primary>,
    pub done: Event,
    pub _from: Vec<Arc<Vec<HeldTensor>>>,
}

impl Copying {
    /// Waits until it is done. `Err`: the device was set up anew meanwhile, or a fault spoiled it.
    pub fn wait(&self) -> Result<(), CudaFault> {
        let _using = self.primary.using()?;
        self.done.wait()
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        // Where it failed there is nothing to wait for.
        self.wait().unwrap_or_default();
    }
}

impl HeldBatch {
    /// Bytes of a request's row of a tensor.
    pub fn row_bytes(&self, tensor: usize) -> usize {
        let layout = &self.tensors[tensor].layout;
        layout.bytes() / layout.dims[0].max(1)
    }

    /// The range that ends where it stands, for errors.
    fn range(&self) -> StageRange {
        let last = CutPoint(self.at.0.max(1));
        StageRange::new(CutPoint(last.0 - 1), last).unwrap_or_else(|| unreachable!("neighbours are a range"))
    }

    fn fault(fault: &CudaFault) -> EngineError {
        EngineError::Device {
            lost: fault.is_lost(),
            cause: fault.to_string(),
        }
    }

    fn failed(&self, why: impl ToString) -> EngineError {
        EngineError::Run {
            range: self.range(),
            cause: Cause::Library(why.to_string()),
        }
    }
}

impl DeviceBatch for HeldBatch {
    fn requests(&self) -> usize {
        self.count
    }

    fn row(&self, row: usize) -> Option<Box<dyn DeviceBatch>> {
        (row < self.count).then(|| {
            Box::new(HeldBatch {
                first: self.first + row,
                count: 1,
                ..self.clone()
            }) as Box<dyn DeviceBatch>
        })
    }

    fn to_host(&self) -> Result<Batch, EngineError> {
        let cut = self
            .info
            .cut(self.at)
            .ok_or_else(|| self.failed("a cut point that is not there"))?;
        if let Some(copying) = &self.copying {
            copying.wait().map_err(|fault| Self::fault(&fault))?;
        }
        let mut tensors = vec![];
        for (place, (held, spec)) in self.tensors.iter().zip(&cut.tensors).enumerate() {
            let row = self.row_bytes(place);
            let bytes = held.memory.read_held(self.first * row, self.count * row);
            let bytes = bytes.map_err(|fault| Self::fault(&fault))?;
            let mut dims = held.layout.dims.clone();
            dims[0] = self.count;
            let elements = to_elements(
                &bytes,
                held.layout.element,
                &dims,
                &held.layout.strides,
                spec.dtype,
            );
            let elements = elements.ok_or_else(|| {
                self.failed(format!(
                    "tensor {} is kept as {:?}",
                    spec.name, held.layout.element
                ))
            })?;
            if let (Elements::F32(all), true) = (&elements, self.finite)
                && all.iter().any(|x| !x.is_finite())
            {
                return Err(self.failed(format!(
                        "tensor {} leaves the range of 16-bit floats, in which this device computes: allow f32 alone in the manifest's precision",
                        spec.name
                    )));
            }
            tensors.push(Tensor::new(self.count, spec.shape.clone(), elements)?);
        }
        Ok(Batch::new(tensors)?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Elements in the order of the host, the last dimension fastest. `None`: such types don't go together.
pub fn to_elements(
    bytes: &[u8],
    element: Element,
    dims: &[usize],
    strides: &[i64],
    dtype: DType,
) -> Option<Elements> {
    let places = places(dims, strides);
    let width = element.bytes();
    let at = |place: usize| &bytes[place * width..(place + 1) * width];
    fn four(b: &[u8]) -> [u8; 4] {
        [b[0], b[1], b[2], b[3]]
    }
    Some(match (element, dtype) {
        (Element::F16, DType::F32 | DType::F16 | DType::F64) => Elements::F32(
            places
                .map(|p| f16::from_le_bytes([at(p)[0], at(p)[1]]).to_f32())
                .collect(),
        ),
        (Element::F32, DType::F32 | DType::F16 | DType::F64) => {
            Elements::F32(places.map(|p| f32::from_le_bytes(four(at(p)))).collect())
        }
        (Element::I32, DType::I32 | DType::Bool) => {
            Elements::I32(places.map(|p| i32::from_le_bytes(four(at(p)))).collect())
        }
        (Element::I64, DType::I64) => {
            let eight = |b: &[u8]| i64::from_le_bytes(std::array::from_fn(|i| b[i]));
            Elements::I64(places.map(|p| eight(at(p))).collect())
        }
        (Element::Bool, DType::Bool) => Elements::I32(places.map(|p| i32::from(at(p)[0])).collect()),
        (Element::U8, DType::U8) => Elements::U8(places.map(|p| at(p)[0]).collect()),
        (Element::I8, DType::I8) => Elements::I8(places.map(|p| at(p)[0] as i8).collect()),
        _ => return None,
    })
}

/// A tensor's elements as bytes, in the order of the host, and their type on the device.
pub fn to_bytes(tensor: &Tensor) -> (Element, Vec<u8>) {
    match tensor.elements() {
        Elements::F32(all) => (Element::F32, all.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Elements::I32(all) => (Element::I32, all.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Elements::I64(all) => (Element::I64, all.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Elements::U8(all) => (Element::U8, all.clone()),
        Elements::I8(all) => (Element::I8, all.iter().map(|&x| x as u8).collect()),
    }
}
