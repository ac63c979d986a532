//! Placeholder while the rooms are laid.
fn main() {}
