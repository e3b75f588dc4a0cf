//! Bodies of requests to the lab's API: decoded, checked, applied as a patch, shown as a table.
//! The first line is the path, the second the media type, what follows is the body.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (path, media_type) = (String::from_utf8_lossy(next()), String::from_utf8_lossy(next()));
    apiserver::fuzz_body(&path, &media_type, next());
});
