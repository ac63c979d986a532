//! Pricing against slow, obvious models.
