//! What C gives: pointers, texts, bytes, structures.

use std::ffi::{CStr, c_char};

use crate::client::Prefer;
use crate::error::GraftError;
use crate::input::{Bytes, PixelFormat, Pixels};

/// Bytes that belong to the caller.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GraftBytes {
    /// Where they begin.
    pub data: *const u8,
    /// How many they are.
    pub length: usize,
}

impl GraftBytes {
    /// The same, as the library knows them.
    pub(super) fn place(&self) -> Bytes {
        Bytes::Memory {
            address: self.data.expose_provenance() as u64,
            length: self.length as u64,
        }
    }
}

/// The order of a pixel's bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftPixelFormat {
    /// Red, green, blue.
    Rgb = 0,
    /// Red, green, blue, and one that is not looked at.
    Rgba = 1,
    /// Blue, green, red, and one that is not looked at.
    Bgra = 2,
}

/// What counts where there is time to spare.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraftPrefer {
    /// What is cheaper for the server, where the device and its next inference don't feel it.
    Server = 0,
    /// The answer as soon as can be.
    Speed = 1,
    /// What is expected to take less of the battery.
    Battery = 2,
    /// Fewer bytes on the way.
    Bytes = 3,
}

/// A wish by its number.
pub(super) fn prefer(number: u32) -> Result<Prefer, GraftError> {
    const ALL: [(GraftPrefer, Prefer); 4] = [
        (GraftPrefer::Server, Prefer::Server),
        (GraftPrefer::Speed, Prefer::Speed),
        (GraftPrefer::Battery, Prefer::Battery),
        (GraftPrefer::Bytes, Prefer::Bytes),
    ];
    let known = ALL.iter().find(|(known, _)| *known as u32 == number);
    let unknown = || GraftError::Options(format!("prefer is {number}, and must be one of GraftPrefer"));
    known.map(|(_, prefer)| *prefer).ok_or_else(unknown)
}

/// A picture that is not encoded.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GraftPixels {
    /// Bytes of this structure.
    pub size: usize,
    /// The picture's bytes, row by row.
    pub bytes: GraftBytes,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next; 0: rows follow one another.
    pub stride: u32,
    /// Order of each pixel's bytes: one of `GraftPixelFormat`.
    pub format: u32,
}

impl GraftPixels {
    /// The same, as the library knows them.
    pub(super) fn pixels(&self) -> Result<Pixels, GraftError> {
        const ALL: [(GraftPixelFormat, PixelFormat); 3] = [
            (GraftPixelFormat::Rgb, PixelFormat::Rgb),
            (GraftPixelFormat::Rgba, PixelFormat::Rgba),
            (GraftPixelFormat::Bgra, PixelFormat::Bgra),
        ];
        let known = ALL.iter().find(|(known, _)| *known as u32 == self.format);
        let unknown = || {
            GraftError::Options(format!(
                "format is {}, and must be one of GraftPixelFormat",
                self.format
            ))
        };
        Ok(Pixels {
            bytes: self.bytes.place(),
            width: self.width,
            height: self.height,
            stride: self.stride,
            format: known.map(|(_, format)| *format).ok_or_else(unknown)?,
        })
    }
}

/// Refuses a pointer that is null.
pub(super) fn needed<T>(pointer: *const T, what: &str) -> Result<(), GraftError> {
    match pointer.is_null() {
        true => Err(GraftError::Options(format!("{what} is null"))),
        false => Ok(()),
    }
}

/// A structure of the caller's, who says how many bytes it has: fields that the caller's version has not are zeros.
///
/// # Safety
///
/// `given` points to so many bytes, and all bytes being zero is a sound `T`.
pub(super) unsafe fn sized<T: Copy>(given: *const T, size: usize) -> Result<T, GraftError> {
    if size < size_of::<usize>() || size > 1 << 12 {
        let what = format!(
            "size is {size}: set it to the structure's, {} bytes",
            size_of::<T>()
        );
        return Err(GraftError::Options(what));
    }
    let mut whole = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: so many bytes are there, by the caller's promise, and `whole` has room for those that are copied; it is all zeros else.
    unsafe {
        std::ptr::copy_nonoverlapping(
            given.cast::<u8>(),
            whole.as_mut_ptr().cast::<u8>(),
            size.min(size_of::<T>()),
        );
        Ok(whole.assume_init())
    }
}

/// So many things; none where the pointer is null.
///
/// # Safety
///
/// `first` is null or points to so many, which stay for as long as the slice is used.
pub(super) unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    let bytes = count.checked_mul(size_of::<T>());
    if first.is_null() || count == 0 || bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// Bytes of the caller's.
///
/// # Safety
///
/// They are there, and stay for as long as the slice is used.
pub(super) unsafe fn bytes<'a>(given: &GraftBytes) -> Result<&'a [u8], GraftError> {
    if given.data.is_null() && given.length > 0 {
        return Err(GraftError::Options(format!("{} bytes at null", given.length)));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { list(given.data, given.length) })
}

/// A text; null: none.
///
/// # Safety
///
/// `text` is null or ends with a zero byte.
pub(super) unsafe fn text(text: *const c_char, what: &str) -> Result<Option<String>, GraftError> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(error) => Err(GraftError::Options(format!("{what} is no UTF-8: {error}"))),
    }
}
