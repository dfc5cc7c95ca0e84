//! Golden scripts of the schedulers.
