//! A peer made of bytes.
