//! The walker and the capture.
