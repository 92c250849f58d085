//! Enums whose values are array indexes and have names for people.

/// Defines an enum whose values are array indexes, with the name of each for people and for metrics.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident: $($(#[$vmeta:meta])* $variant:ident $(($number:literal))? = $text:literal,)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant $(= $number)?,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, for people and for metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use named;
