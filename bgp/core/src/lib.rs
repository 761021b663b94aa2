//! Pure BGP: strict wire codec, session state machine, RIB.
