//! Test data sets in NumPy's `.npz`: an archive of arrays.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use graft_model::{Cut, DType, DataSet, ModelError, ModelInfo, Numbers};
use zip::ZipArchive;

/// Largest array that is read, in bytes.
const MAX_ARRAY_BYTES: u64 = 1 << 30;
/// Names that the only input's array may have, apart from the tensor's own.
const INPUTS: [&str; 4] = ["input", "input_0", "x", "arr_0"];
/// Names that the only output's array may have, apart from the tensor's own.
const OUTPUTS: [&str; 4] = ["output", "output_0", "y", "arr_1"];

/// Reads the arrays of a model's inputs and outputs.
pub(super) fn read(file: &Path, info: &ModelInfo) -> Result<DataSet, ModelError> {
    let wrong = |what: String| {
        let hint = "Write it with numpy.savez(FILE, input=…, output=…)";
        ModelError::data(file, what, hint)
    };
    let archive = File::open(file).map_err(|e| wrong(format!("can't be read: {e}")))?;
    let mut archive = ZipArchive::new(archive).map_err(|e| wrong(format!("is no .npz: {e}")))?;
    let mut take = |tensor: &str, others: &[&str]| {
        let names: Vec<String> = archive.file_names().flatten().map(|n| n.into_owned()).collect();
        let wanted = std::iter::once(&tensor).chain(others);
        let wanted = wanted
            .map(|name| format!("{name}.npy"))
            .find(|name| names.contains(name));
        let wanted = wanted.ok_or_else(|| {
            let there: Vec<&str> = names.iter().map(|n| n.trim_end_matches(".npy")).collect();
            let nor: String = others.iter().map(|other| format!(", nor {other}")).collect();
            wrong(format!("has no array {tensor}{nor}; it has {}", there.join(", ")))
        })?;
        let mut bytes = vec![];
        let entry = archive
            .by_name(&wanted)
            .map_err(|e| wrong(format!("{wanted}: {e}")))?;
        let read = entry.take(MAX_ARRAY_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|e| wrong(format!("{wanted} can't be read: {e}")))?;
        if bytes.len() as u64 > MAX_ARRAY_BYTES {
            return Err(wrong(format!("{wanted} has more than {MAX_ARRAY_BYTES} bytes")));
        }
        array(&bytes).map_err(|e| wrong(format!("{wanted} {e}")))
    };
    let mut all = |cut: &Cut, kind: &str, only: &[&str]| {
        let named = cut.names().enumerate().map(|(i, name)| {
            let numbered = format!("{kind}_{i}");
            let others = if cut.only().is_some() {
                only
            } else {
                &[numbered.as_str()]
            };
            take(name, others)
        });
        named.collect::<Result<Vec<_>, _>>()
    };
    let inputs = all(info.inputs(), "input", &INPUTS)?;
    let outputs = all(info.outputs(), "output", &OUTPUTS)?;
    DataSet::new(file, inputs, outputs, info)
}

/// One array: a magic word, a header that is a Python dictionary, the elements.
fn array(bytes: &[u8]) -> Result<Numbers, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is no array")?;
    let (version, rest) = rest.split_at_checked(2).ok_or("is cut off")?;
    let width = if version[0] == 1 { 2 } else { 4 };
    let (length, rest) = rest.split_at_checked(width).ok_or("is cut off")?;
    let length = length.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
    let (header, elements) = rest.split_at_checked(length).ok_or("is cut off")?;
    let header = String::from_utf8_lossy(header);
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    if !value("fortran_order").is_some_and(|v| v.starts_with("False")) {
        return Err("is stored column by column; store numpy.ascontiguousarray of it".to_owned());
    }
    let kind = value("descr").and_then(|v| v.strip_prefix('\''));
    let kind = kind
        .and_then(|v| v.split('\'').next())
        .ok_or("has no element type")?;
    let dtype = match kind {
        "<f4" => DType::F32,
        "<f8" => DType::F64,
        "<f2" => DType::F16,
        "<i4" => DType::I32,
        "<i8" => DType::I64,
        "|i1" => DType::I8,
        "|u1" => DType::U8,
        "|b1" => DType::Bool,
        other => return Err(format!("has elements of type {other}, which are not read")),
    };
    Ok(Numbers::from_bytes(dtype, elements))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(kind: &str, order: &str, elements: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': (1, 2), }}\n");
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(elements);
        out
    }

    #[test]
    fn arrays_are_read_and_broken_ones_are_errors() {
        let elements: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let whole = npy("<f4", "False", &elements);
        let numbers = array(&whole).unwrap();
        assert_eq!((numbers.dtype, numbers.values), (DType::F32, vec![1.5, -2.0]));
        assert!(
            array(&npy("<f4", "True", &elements))
                .unwrap_err()
                .contains("ascontiguousarray")
        );
        assert!(
            array(&npy("<c8", "False", &elements))
                .unwrap_err()
                .contains("<c8")
        );
        for end in 0..40 {
            assert!(array(&whole[..end]).is_err());
        }
    }
}
