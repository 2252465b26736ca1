//! Inputs on which the programs were wrong, each with the right value. Every module is one kind of fault; the numbers in the names of the
//! tests are those under which the faults were found.

mod first_second;
mod ids;
mod labels;
mod masks;
mod messages;
mod outputs;
mod screen;
mod support;
mod units;
