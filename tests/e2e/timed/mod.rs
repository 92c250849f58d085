//! What has to keep up with something, or measures: last, as tests start in the order of their names, and thus apart from
//! the others at no loss.

mod addressed;
mod all_troubles;
mod arrays;
mod cameras;
mod circuits;
mod cost;
mod ports;
mod services;
mod thousand;
