//! Typed configuration and its validation.
