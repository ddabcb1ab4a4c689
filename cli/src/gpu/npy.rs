//! Tensors as NumPy's `.npy` files.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::path::Path;

use anyhow::Context;
use graft_model::{Batch, Elements, Tensor};

/// Writes each tensor of a batch to a file of its own: STEM.npy, or STEM.0.npy and so on where there are several.
pub(super) fn write(folder: &Path, stem: &str, batch: &Batch) -> anyhow::Result<()> {
    let tensors = batch.tensors();
    for (place, tensor) in tensors.iter().enumerate() {
        let name = match tensors.len() {
            1 => format!("{stem}.npy"),
            _ => format!("{stem}.{place}.npy"),
        };
        let path = folder.join(name);
        std::fs::write(&path, file(tensor)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A tensor as a file of version 1.0.
fn file(tensor: &Tensor) -> Vec<u8> {
    fn bytes<T: Copy, const N: usize>(all: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        all.iter().flat_map(|&x| f(x)).collect()
    }
    let (kind, content) = match tensor.elements() {
        Elements::F32(all) => ("<f4", bytes(all, f32::to_le_bytes)),
        Elements::I32(all) => ("<i4", bytes(all, i32::to_le_bytes)),
        Elements::I64(all) => ("<i8", bytes(all, i64::to_le_bytes)),
        Elements::U8(all) => ("|u1", all.clone()),
        Elements::I8(all) => ("|i1", bytes(all, i8::to_le_bytes)),
    };
    let sizes = std::iter::once(tensor.requests()).chain(tensor.shape().iter().copied());
    let sizes: String = sizes.map(|d| format!("{d}, ")).collect();
    let mut header = format!(
        "{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}",
        sizes.trim_end()
    );
    // Magic, version and length take 10 bytes; the header ends at a multiple of 64 with a line end.
    let padding = (10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1);
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_header_that_numpy_reads() {
        let tensor = Tensor::new(1, vec![2], Elements::F32(vec![1.0, 2.0])).unwrap();
        let file = file(&tensor);
        assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&file[10..10 + length]).unwrap();
        assert!(header.contains("'shape': (1, 2,)"), "{header}");
        assert_eq!(file[10 + length..], [0, 0, 128, 63, 0, 0, 0, 64]);
    }
}
