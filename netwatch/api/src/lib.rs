//! What the daemon tells and takes on its Unix socket.
