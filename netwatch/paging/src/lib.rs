//! PagerDuty Events v2 from a durable outbox.
