//! Parses the arguments, runs one command and turns its outcome into an exit code.
fn main() {}
