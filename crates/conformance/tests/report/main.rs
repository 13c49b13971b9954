//! A report says what its facts say, in every form, whatever a device calls itself.

mod markup;
mod sample;
mod schema;

mod compare;
mod forms;
mod rendered;
mod verdict;
