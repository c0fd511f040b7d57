//! Any datagram is a report or not; what is one has texts of a reasonable length, and says the same without its header.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The source: not all of it is public.
#[path = "../../../limiter-user/src/excerpt.rs"]
mod excerpt;
#[path = "../../../limiter-user/src/hook/frame.rs"]
mod frame;
#[path = "../../../limiter-user/src/secrets.rs"]
mod secrets;

fuzz_target!(|datagram: &[u8]| {
    let body = match frame::parse(datagram) {
        Ok(body) => body,
        Err(invalid) => return assert!(!invalid.to_string().is_empty()),
    };
    assert!(datagram.len() <= frame::MAX_FRAME, "too long, and read");
    for text in [&body.category, &body.account, &body.device].into_iter().flatten() {
        assert!((1..=256).contains(&text.len()), "{} bytes of text", text.len());
    }
    let begin = datagram.iter().position(|byte| *byte == b'{').unwrap_or_default();
    assert_eq!(frame::parse(&datagram[begin..]), Ok(body), "the header has a say");
});
