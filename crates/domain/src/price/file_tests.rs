//! Price files: what they may say, and what a wrong line is told.
