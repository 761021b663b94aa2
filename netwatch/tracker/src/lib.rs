//! Pure: the TCP state machine per connection, RTT baselines and the ACK-overdue clock.
