//! Golden scripts of the checkers.
