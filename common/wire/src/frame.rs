//! The frame: prefix, header, payload.

use bincode::config;
use bincode::{Decode, Encode};

/// Version of frames and messages; it stands in every frame and in the ALPN names.
pub const VERSION: u16 = 9;

/// Bytes of the prefix: magic (2), version (2), header length (4), payload length (8), little-endian.
pub const PREFIX_BYTES: usize = 16;

const MAGIC: [u8; 2] = *b"Gf";

/// Largest header (64 KiB): also the limit of what decoding one may allocate.
const MAX_HEADER_BYTES: usize = 64 << 10;

fn encoding() -> config::Configuration<config::LittleEndian, config::Varint, config::Limit<MAX_HEADER_BYTES>>
{
    config::standard().with_limit::<MAX_HEADER_BYTES>()
}

/// Bounds of what a reader accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload, in bytes.
    pub payload_bytes: u64,
}

impl Default for Limits {
    /// A limit of 64 MiB: one request's tensor of any network in use is far below that.
    fn default() -> Self {
        Limits {
            payload_bytes: 64 << 20,
        }
    }
}

/// Bytes that are no frame of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not Graft's.
    #[error("this is no Graft frame")]
    NotAFrame,
    /// The frame is of another version.
    #[error("frame of version {0}; this program speaks version {VERSION}: upgrade the older side")]
    Version(u16),
    /// The header is too large.
    #[error("header of {0} bytes, more than {MAX_HEADER_BYTES}")]
    HeaderTooLarge(u32),
    /// The payload is too large.
    #[error("payload of {got} bytes, more than {limit}")]
    PayloadTooLarge {
        /// Bytes as announced.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// The header is no message.
    #[error("header can't be decoded: {0}")]
    Header(String),
    /// A message can't be put into a header.
    #[error("message can't be encoded: {0}")]
    Encode(String),
}

/// The prefix, which stands before a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of the header.
    pub header_bytes: usize,
    /// Bytes of the payload.
    pub payload_bytes: u64,
}

impl Prefix {
    /// Reads a prefix and holds it against the limits.
    pub fn decode(bytes: &[u8; PREFIX_BYTES], limits: Limits) -> Result<Self, FrameError> {
        let [m0, m1, v0, v1, h0, h1, h2, h3, payload @ ..] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(FrameError::NotAFrame);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let header = u32::from_le_bytes([h0, h1, h2, h3]);
        if header as usize > MAX_HEADER_BYTES {
            return Err(FrameError::HeaderTooLarge(header));
        }
        let payload = u64::from_le_bytes(payload);
        if payload > limits.payload_bytes {
            return Err(FrameError::PayloadTooLarge {
                got: payload,
                limit: limits.payload_bytes,
            });
        }
        Ok(Prefix {
            header_bytes: header as usize,
            payload_bytes: payload,
        })
    }

    fn encode(self) -> [u8; PREFIX_BYTES] {
        let mut out = [0; PREFIX_BYTES];
        out[..2].copy_from_slice(&MAGIC);
        out[2..4].copy_from_slice(&VERSION.to_le_bytes());
        out[4..8].copy_from_slice(&(self.header_bytes as u32).to_le_bytes());
        out[8..].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out
    }
}

/// Prefix and header of a frame, ready to be sent before `payload_bytes` bytes of payload.
pub fn encode_frame<H: Encode>(header: &H, payload_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; PREFIX_BYTES];
    let header_bytes = bincode::encode_into_std_write(header, &mut out, encoding())
        .map_err(|e| FrameError::Encode(e.to_string()))?;
    let prefix = Prefix {
        header_bytes,
        payload_bytes: payload_bytes as u64,
    };
    out[..PREFIX_BYTES].copy_from_slice(&prefix.encode());
    Ok(out)
}

/// Reads a header. Bytes that are left over are an error.
pub fn decode_header<H: Decode<()>>(bytes: &[u8]) -> Result<H, FrameError> {
    let (header, used) =
        bincode::decode_from_slice(bytes, encoding()).map_err(|e| FrameError::Header(e.to_string()))?;
    if used != bytes.len() {
        return Err(FrameError::Header(format!(
            "{} bytes are left over",
            bytes.len() - used
        )));
    }
    Ok(header)
}
