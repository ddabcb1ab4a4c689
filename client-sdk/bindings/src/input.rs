//! What a model is run on: tensors, an encoded picture, or pixels.

use std::sync::Arc;

use graft_client::{Batch, Session, Tensor, picture};
use image::RgbImage;

use crate::error::GraftError;

/// Bytes of the app's.
#[derive(Debug, Clone, uniffi::Enum)]
pub enum Bytes {
    /// These, copied on their way through the language's own arrays.
    Held {
        /// They.
        bytes: Vec<u8>,
    },
    /// Those in the app's memory, read once, before the call returns: a direct `ByteBuffer`, `Data`, an array of NumPy's. They must stay
    /// there until then.
    Memory {
        /// Where they begin.
        address: u64,
        /// How many they are.
        length: u64,
    },
}

impl Bytes {
    fn as_slice(&self) -> Result<&[u8], GraftError> {
        match self {
            Bytes::Held { bytes } => Ok(bytes),
            Bytes::Memory { length: 0, .. } => Ok(&[]),
            Bytes::Memory { address, length } => {
                let address = usize::try_from(*address).ok().filter(|address| *address != 0);
                let length = usize::try_from(*length)
                    .ok()
                    .filter(|length| isize::try_from(*length).is_ok());
                match address.zip(length) {
                    // SAFETY: whoever makes a `Memory` promises that so many bytes are there until the call returns; they are only read.
                    Some((address, length)) => Ok(unsafe {
                        std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), length)
                    }),
                    None => Err(GraftError::Input("there is no memory at that address".to_owned())),
                }
            }
        }
    }
}

/// The order of a pixel's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum PixelFormat {
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, and one that is not looked at: Android's `ARGB_8888` bitmaps, CameraX' `RGBA_8888`.
    Rgba,
    /// Blue, green, red, and one that is not looked at: `kCVPixelFormatType_32BGRA`.
    Bgra,
}

/// A picture that is not encoded.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Pixels {
    /// Its bytes, row by row.
    pub bytes: Bytes,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next; 0: rows follow one another.
    #[uniffi(default = 0)]
    pub stride: u32,
    /// Order of each pixel's bytes.
    pub format: PixelFormat,
}

/// Longest side of a picture, in pixels.
const MOST_SIDE: u32 = 16_384;

impl Pixels {
    fn picture(&self) -> Result<RgbImage, GraftError> {
        let wrong = |what: String| GraftError::Input(what);
        let (width, height) = (self.width as usize, self.height as usize);
        if !(1..=MOST_SIDE).contains(&self.width) || !(1..=MOST_SIDE).contains(&self.height) {
            return Err(wrong(format!(
                "a picture of {width}x{height} pixels; sides have 1 to {MOST_SIDE}"
            )));
        }
        let (each, order) = match self.format {
            PixelFormat::Rgb => (3, [0, 1, 2]),
            PixelFormat::Rgba => (4, [0, 1, 2]),
            PixelFormat::Bgra => (4, [2, 1, 0]),
        };
        let row = width * each;
        let stride = if self.stride == 0 {
            row
        } else {
            self.stride as usize
        };
        let bytes = self.bytes.as_slice()?;
        let want = stride
            .checked_mul(height - 1)
            .and_then(|all| all.checked_add(row));
        if stride < row || want.is_none_or(|want| bytes.len() < want) {
            return Err(wrong(format!(
                "{} bytes with {stride} from row to row; {width}x{height} pixels of {each} bytes need more",
                bytes.len()
            )));
        }
        let mut pixels = Vec::with_capacity(width * height * 3);
        for line in bytes.chunks(stride).take(height) {
            for pixel in line[..row].chunks_exact(each) {
                pixels.extend(order.map(|channel| pixel[channel]));
            }
        }
        RgbImage::from_raw(self.width, self.height, pixels)
            .ok_or_else(|| wrong("the picture's bytes do not fit its sides".to_owned()))
    }
}

/// What a model is run on; it may be used several times.
#[derive(Debug, uniffi::Object)]
pub struct Input(pub(crate) Given);

/// What an app gave.
#[derive(Debug, Clone)]
pub(crate) enum Given {
    /// The model's inputs.
    Tensors(Batch),
    /// A PNG or JPEG.
    Encoded(Arc<[u8]>),
    /// A picture.
    Picture(Arc<RgbImage>),
}

#[uniffi::export]
impl Input {
    /// A PNG or JPEG, as it is.
    #[uniffi::constructor]
    pub fn encoded(bytes: Bytes) -> Result<Arc<Self>, GraftError> {
        Ok(Arc::new(Input::of_encoded(&bytes)?))
    }

    /// A picture that is not encoded, a camera's for instance.
    #[uniffi::constructor]
    pub fn pixels(pixels: Pixels) -> Result<Arc<Self>, GraftError> {
        Ok(Arc::new(Input::of_pixels(&pixels)?))
    }
}

impl Input {
    pub(crate) fn of_encoded(bytes: &Bytes) -> Result<Self, GraftError> {
        Ok(Input(Given::Encoded(bytes.as_slice()?.into())))
    }

    pub(crate) fn of_pixels(pixels: &Pixels) -> Result<Self, GraftError> {
        Ok(Input(Given::Picture(Arc::new(pixels.picture()?))))
    }

    /// Tensors for a model, in the order of its inputs: elements of their types, little-endian.
    pub(crate) fn of_tensors(session: &Session, tensors: &[Bytes]) -> Result<Self, GraftError> {
        let specs = &session.entry().info.inputs().tensors;
        if specs.len() != tensors.len() {
            return Err(GraftError::Input(format!(
                "{} tensors for {} inputs",
                tensors.len(),
                specs.len()
            )));
        }
        let one = |(spec, bytes): (_, &Bytes)| -> Result<Tensor, GraftError> {
            let (spec, bytes): (&graft_client::TensorSpec, _) = (spec, bytes.as_slice()?);
            Tensor::from_requests(spec, &[(spec.dtype, bytes)])
                .map_err(|error| GraftError::Input(format!("input {}: {error}", spec.name)))
        };
        let tensors = specs
            .iter()
            .zip(tensors)
            .map(one)
            .collect::<Result<Vec<_>, _>>()?;
        let batch = Batch::new(tensors).map_err(|error| GraftError::Input(error.to_string()))?;
        Ok(Input(Given::Tensors(batch)))
    }
}

impl Given {
    /// The tensors. Blocks while a picture is decoded and scaled.
    pub(crate) fn batch(self, session: &Session) -> Result<Batch, GraftError> {
        let picture = match self {
            Given::Tensors(batch) => return Ok(batch),
            Given::Encoded(bytes) => Arc::new(picture::decode(&bytes)?),
            Given::Picture(picture) => picture,
        };
        let manifest = &session.entry().manifest;
        let spec = manifest.input.image.as_ref().ok_or_else(|| {
            GraftError::Input(format!(
                "the manifest of {} does not say how pictures become its input ([input.image]); give it tensors",
                manifest.name
            ))
        })?;
        Ok(picture::tensor(&picture, spec)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(bytes: Vec<u8>, width: u32, height: u32, stride: u32, format: PixelFormat) -> Pixels {
        Pixels {
            bytes: Bytes::Held { bytes },
            width,
            height,
            stride,
            format,
        }
    }

    #[test]
    fn pixels_of_each_order_and_stride_are_one_picture() {
        let rgb = pixels(vec![1, 2, 3, 4, 5, 6], 1, 2, 0, PixelFormat::Rgb);
        let rgba = pixels(
            vec![1, 2, 3, 9, 8, 8, 8, 8, 4, 5, 6, 9],
            1,
            2,
            8,
            PixelFormat::Rgba,
        );
        let bgra = pixels(vec![3, 2, 1, 9, 6, 5, 4, 9], 1, 2, 4, PixelFormat::Bgra);
        let want = rgb.picture().unwrap();
        assert_eq!(want.as_raw(), &[1, 2, 3, 4, 5, 6]);
        assert_eq!(rgba.picture().unwrap(), want);
        assert_eq!(bgra.picture().unwrap(), want);
    }

    #[test]
    fn pixels_that_can_t_be_so_are_refused() {
        for wrong in [
            pixels(vec![], 0, 1, 0, PixelFormat::Rgb),
            pixels(vec![0; 5], 1, 2, 0, PixelFormat::Rgb),
            pixels(vec![0; 64], 4, 2, 3, PixelFormat::Rgba),
            pixels(vec![0; 64], u32::MAX, u32::MAX, u32::MAX, PixelFormat::Rgba),
        ] {
            assert!(matches!(wrong.picture(), Err(GraftError::Input(_))), "{wrong:?}");
        }
        let nowhere = Bytes::Memory {
            address: 0,
            length: 7,
        };
        assert!(nowhere.as_slice().is_err());
        let there = [1u8, 2, 3];
        let memory = Bytes::Memory {
            address: there.as_ptr().expose_provenance() as u64,
            length: 3,
        };
        assert_eq!(memory.as_slice().unwrap(), &there);
    }
}
