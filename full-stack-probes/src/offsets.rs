//! Where this kernel keeps the fields that programs read.

use ebpf_abi::{ABSENT, kernel_fields};

use crate::btf::{Btf, BtfError};

/// One field's symbol in the programs and what was found for it.
#[derive(Debug)]
pub struct Offset {
    /// The symbol in the programs' `.rodata`.
    pub symbol: &'static str,
    /// The byte offset; [`ABSENT`] where the field is missing.
    pub value: u32,
    /// Why it is missing.
    pub missing: Option<BtfError>,
}

/// All fields, and how `icsk_ca_state` lies in its byte.
#[derive(Debug)]
pub struct Offsets {
    /// In the order of the list of fields.
    pub fields: Vec<Offset>,
    /// Bits to shift right.
    pub ca_state_shift: u32,
    /// Mask after the shift.
    pub ca_state_mask: u32,
}

macro_rules! table {
    ($($symbol:ident: $ty:literal, $path:literal, $size:literal;)*) => {
        const FIELDS: &[(&str, &str, &str, u32)] = &[$((stringify!($symbol), $ty, $path, $size),)*];
    };
}

kernel_fields!(table);

const CA_STATE: &str = "ICSK_CA_STATE";

impl Offsets {
    /// Looks all fields up.
    pub fn of(btf: &Btf) -> Self {
        let mut offsets = Self {
            fields: Vec::with_capacity(FIELDS.len()),
            ca_state_shift: 0,
            ca_state_mask: 0xff,
        };
        for &(symbol, ty, path, size) in FIELDS {
            let found = if symbol == CA_STATE {
                btf.field(ty, path).inspect(|field| {
                    if let Some((shift, bits)) = field.bits {
                        offsets.ca_state_shift = shift;
                        offsets.ca_state_mask = (1 << bits.min(8)) - 1;
                    }
                })
            } else {
                btf.sized_field(ty, path, size)
            };
            let (value, missing) = match found {
                Ok(field) => (field.offset, None),
                Err(error) => (ABSENT, Some(error)),
            };
            offsets.fields.push(Offset {
                symbol,
                value,
                missing,
            });
        }
        offsets
    }

    /// Why a field is missing, if it is.
    pub fn missing(&self, symbol: &str) -> Option<String> {
        match self.fields.iter().find(|field| field.symbol == symbol) {
            Some(field) => field.missing.as_ref().map(ToString::to_string),
            None => Some(format!("{symbol} is not in the list of fields")),
        }
    }
}
