//! Pure: signals in, verdicts and effects out.
