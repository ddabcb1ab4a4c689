//! From a photograph to a model's input.

use graft_model::{Elements, ImageInput, Resample, Tensor, TensorError};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, crop_imm, resize};

/// A picture that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It is no PNG or JPEG, or is damaged.
    #[error("the picture can't be read: {0} (expected PNG or JPEG)")]
    Read(#[from] image::ImageError),
    /// Its tensor does not fit.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A picture in memory: red, green and blue of each pixel.
pub type Pixels = RgbImage;

/// Largest side of a picture that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;

/// Decodes a PNG or JPEG.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    let mut reader = image::ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(image::ImageError::from)?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    Ok(reader.decode()?.to_rgb8())
}

/// Swaps left and right.
pub fn mirror(picture: &mut RgbImage) {
    image::imageops::flip_horizontal_in_place(picture);
}

/// A square of a picture, as far as it is in it.
pub fn square(picture: &RgbImage, left: u32, top: u32, side: u32) -> RgbImage {
    crop_imm(picture, left, top, side, side).to_image()
}

/// As a JPEG of a quality from 1 to 100.
pub fn jpeg(picture: &RgbImage, quality: u8) -> Result<Vec<u8>, PictureError> {
    let mut bytes = vec![];
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))?;
    Ok(bytes)
}

/// Scales the shorter side, crops the middle, normalises: a batch of one of shape `[3, crop, crop]`.
pub fn tensor(picture: &RgbImage, spec: &ImageInput) -> Result<Tensor, PictureError> {
    normalised(&fitted(picture, spec), spec)
}

/// Scales the shorter side and crops the middle: what a model sees of a picture, in pixels.
pub fn fitted(picture: &RgbImage, spec: &ImageInput) -> RgbImage {
    let (width, height) = picture.dimensions();
    let shorter = width.min(height).max(1);
    let scaled = |side: u32| {
        let side = u64::from(side) * u64::from(spec.resize) / u64::from(shorter);
        u32::try_from(side).unwrap_or(u32::MAX).clamp(spec.crop, MAX_SIDE)
    };
    let filter = match spec.resample {
        Resample::Bilinear => FilterType::Triangle,
        Resample::Bicubic => FilterType::CatmullRom,
    };
    let fitted = if shorter == spec.resize {
        picture.clone()
    } else {
        resize(picture, scaled(width), scaled(height), filter)
    };
    let (left, top) = (
        (fitted.width() - spec.crop) / 2,
        (fitted.height() - spec.crop) / 2,
    );
    crop_imm(&fitted, left, top, spec.crop, spec.crop).to_image()
}

/// Pixels of [`fitted`] as a batch of one of shape `[3, crop, crop]`.
pub fn normalised(square: &RgbImage, spec: &ImageInput) -> Result<Tensor, PictureError> {
    let mut planes = Vec::with_capacity(3 * square.pixels().len());
    for channel in 0..3 {
        let (mean, std) = (spec.mean[channel], spec.std[channel]);
        planes.extend(square.pixels().map(|p| (f32::from(p.0[channel]) - mean) / std));
    }
    let side = spec.crop as usize;
    Ok(Tensor::new(1, vec![3, side, side], Elements::F32(planes))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ImageInput {
        ImageInput {
            resize: 8,
            crop: 4,
            resample: Resample::Bilinear,
            mean: [127.0; 3],
            std: [128.0; 3],
        }
    }

    #[test]
    fn channels_are_planes_and_values_are_normalised() {
        let red = RgbImage::from_pixel(16, 20, image::Rgb([255, 127, 0]));
        let tensor = tensor(&red, &spec()).unwrap();
        assert_eq!(tensor.shape(), [3, 4, 4]);
        let values = tensor.floats().unwrap();
        assert_eq!((values[0], values[16], values[32]), (1.0, 0.0, -127.0 / 128.0));
    }

    #[test]
    fn odd_and_tiny_pictures_do_not_panic() {
        for (width, height) in [(1, 1), (1, 300), (7, 3), (300, 1)] {
            let picture = RgbImage::new(width, height);
            assert_eq!(tensor(&picture, &spec()).unwrap().shape(), [3, 4, 4]);
        }
        assert!(decode(b"no picture").is_err());
    }
}
