//! What has to keep up with something, or measures: last, as tests start in the order of their names, and thus apart from
//! the others at no loss.

mod arrays;
mod cameras;
mod cost;
mod thousand;
