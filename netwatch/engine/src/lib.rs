//! Pure: tracker, correlator and planner in one recorded, replayable state machine.
