//! The records that kernel programs and user space share, and the list of kernel fields read.
