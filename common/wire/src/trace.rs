//! The W3C's trace context, which says over program boundaries whose request something belongs to.

use std::fmt;

use bincode::{Decode, Encode};

/// A trace context: W3C Recommendation "Trace Context", level 1. Its trace is the request's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct TraceContext {
    /// Id of the whole trace; not zero.
    pub trace: u128,
    /// Id of the caller's span; not zero.
    pub span: u64,
    /// Flags; bit 0: the caller records the trace.
    pub flags: u8,
}

impl TraceContext {
    /// A new trace, of random numbers.
    pub fn new(trace: u128, span: u64) -> Self {
        TraceContext {
            trace: trace.max(1),
            span: span.max(1),
            flags: 0,
        }
    }

    /// The same trace, one span further.
    pub fn child(self, span: u64) -> Self {
        TraceContext {
            span: span.max(1),
            ..self
        }
    }

    /// Reads a `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`, lower case. Later versions may go on after that.
    /// `None`: the text is no trace context, and a new trace begins.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut parts = text.trim().split('-');
        let mut part = |length: usize| parts.next().filter(|p| p.len() == length && lower(p));
        let version = part(2).filter(|v| *v != "ff")?;
        let trace = u128::from_str_radix(part(32)?, 16).ok()?;
        let span = u64::from_str_radix(part(16)?, 16).ok()?;
        let flags = u8::from_str_radix(part(2)?, 16).ok()?;
        let whole = version != "00" || parts.next().is_none();
        (whole && trace != 0 && span != 0).then_some(TraceContext { trace, span, flags })
    }

    /// The request's id: the trace, in 32 hexadecimal digits.
    pub fn request_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_recommendation_gives_as_an_example_is_read() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).unwrap();
        assert_eq!(context.request_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.to_string(), text);
        // A later version, with more at its end.
        assert!(TraceContext::parse(&format!("cc{}-what", &text[2..])).is_some());
    }

    #[test]
    fn what_is_none_begins_a_new_trace() {
        for wrong in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not_without_a_panic(text in ".{0,80}") {
            TraceContext::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., flags: u8) {
            let context = TraceContext { trace, span, flags };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }
    }
}
