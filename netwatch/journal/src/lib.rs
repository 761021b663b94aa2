//! The incident journal in SQLite, and the report made from it.
