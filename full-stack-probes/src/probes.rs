//! The probes: which program goes on which hook, and what it needs of the kernel.

use crate::btf::{Argument, Btf};
use crate::offsets::Offsets;

/// A way to attach a program; in [`Probe::rungs`], the one that loses least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// A BTF-typed raw tracepoint with the structs that its arguments point to (`""`: a number).
    TpBtf {
        /// The program in the object.
        program: &'static str,
        /// The tracepoint.
        tracepoint: &'static str,
        /// Its first arguments.
        arguments: &'static [&'static str],
    },
}

/// One subject that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its stable name, in reports and metrics.
    pub name: &'static str,
    /// What goes unseen without it.
    pub loss: &'static str,
    /// Ways to attach it, best first.
    pub rungs: &'static [Rung],
    /// Fields without which it is off, beside those that every probe needs.
    pub fields: &'static [&'static str],
}

/// Fields without which no probe works.
const COMMON: &[&str] = &[
    "SK_FAMILY",
    "SK_STATE",
    "SK_DADDR",
    "SK_RCV_SADDR",
    "SK_DPORT",
    "SK_NUM",
    "SK_COOKIE",
    "SK_NET",
    "NET_INUM",
    "SK_ERR",
    "SK_ERR_SOFT",
];

/// Fields without which the table of connections cannot be kept.
const TABLE: &[&str] = &[
    "TP_SND_UNA",
    "TP_SND_NXT",
    "TP_SND_WND",
    "TP_SRTT",
    "TP_MDEV",
    "TP_RTT_MIN",
    "TP_MSTAMP",
];

/// All probes.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "tcp_state",
        loss: "connections that open, close or fail",
        rungs: &[Rung::TpBtf {
            program: "tcp_state",
            tracepoint: "inet_sock_set_state",
            arguments: &["sock", "", ""],
        }],
        fields: TABLE,
    },
    Probe {
        name: "tcp_receive",
        loss: "acknowledgements and round-trip times",
        rungs: &[Rung::TpBtf {
            program: "tcp_receive",
            tracepoint: "tcp_probe",
            arguments: &["sock", "sk_buff"],
        }],
        fields: &[
            "TP_SND_UNA",
            "TP_SND_NXT",
            "TP_SND_WND",
            "TP_SRTT",
            "TP_MDEV",
            "TP_RTT_MIN",
            "TP_MSTAMP",
            "SKB_CB",
            "CB_ACK_SEQ",
        ],
    },
    Probe {
        name: "tcp_send",
        loss: "when data left; overdue acknowledgements are seen only after retransmissions",
        rungs: &[Rung::TpBtf {
            program: "tcp_send",
            tracepoint: "sock_send_length",
            arguments: &["sock", ""],
        }],
        fields: TABLE,
    },
    Probe {
        name: "tcp_retransmit",
        loss: "retransmissions",
        rungs: &[Rung::TpBtf {
            program: "tcp_retransmit",
            tracepoint: "tcp_retransmit_skb",
            arguments: &["sock", "sk_buff"],
        }],
        fields: &[
            "TP_SND_UNA",
            "TP_SND_NXT",
            "TP_SND_WND",
            "TP_SRTT",
            "TP_MDEV",
            "TP_RTT_MIN",
            "TP_MSTAMP",
            "ICSK_RETRANSMITS",
            "ICSK_CA_STATE",
        ],
    },
    Probe {
        name: "tcp_synack",
        loss: "retransmitted SYN-ACKs",
        rungs: &[Rung::TpBtf {
            program: "tcp_synack",
            tracepoint: "tcp_retransmit_synack",
            arguments: &["sock", "request_sock"],
        }],
        fields: &[],
    },
    Probe {
        name: "tcp_reset_in",
        loss: "resets from peers",
        rungs: &[Rung::TpBtf {
            program: "tcp_reset_in",
            tracepoint: "tcp_receive_reset",
            arguments: &["sock"],
        }],
        fields: &[],
    },
    Probe {
        name: "tcp_reset_out",
        loss: "resets that this host sends",
        rungs: &[Rung::TpBtf {
            program: "tcp_reset_out",
            tracepoint: "tcp_send_reset",
            arguments: &["sock"],
        }],
        fields: &[],
    },
    Probe {
        name: "tcp_error",
        loss: "errors that ICMP reports on connections",
        rungs: &[Rung::TpBtf {
            program: "tcp_error",
            tracepoint: "inet_sk_error_report",
            arguments: &["sock"],
        }],
        fields: &[],
    },
    Probe {
        name: "tcp_destroy",
        loss: "slots of vanished connections until the next reconciliation",
        rungs: &[Rung::TpBtf {
            program: "tcp_destroy",
            tracepoint: "tcp_destroy_sock",
            arguments: &["sock"],
        }],
        fields: &[],
    },
];

impl Probe {
    /// The fields that this kernel lacks, as reasons.
    pub fn missing_fields(&self, offsets: &Offsets) -> Vec<String> {
        COMMON
            .iter()
            .chain(self.fields)
            .filter_map(|symbol| offsets.missing(symbol))
            .collect()
    }
}

impl Rung {
    /// What is attached to, for people.
    pub fn hook(&self) -> String {
        match self {
            Self::TpBtf { tracepoint, .. } => format!("tp_btf/{tracepoint}"),
        }
    }

    /// Whether this kernel has the hook with the arguments that the program reads.
    pub fn check(&self, btf: &Btf) -> Result<(), String> {
        match self {
            Self::TpBtf {
                tracepoint,
                arguments,
                ..
            } => {
                let found = btf
                    .tracepoint(tracepoint)
                    .map_err(|error| error.to_string())?
                    .ok_or_else(|| format!("this kernel has no tracepoint {tracepoint}"))?;
                for (index, wanted) in arguments.iter().enumerate() {
                    let matches = match found.get(index) {
                        Some(Argument::Scalar) => wanted.is_empty(),
                        Some(Argument::Pointer(name)) => name == wanted,
                        None => false,
                    };
                    if !matches {
                        return Err(format!(
                            "argument {index} of tracepoint {tracepoint} is {:?} on this kernel, {wanted:?} expected",
                            found.get(index)
                        ));
                    }
                }
                Ok(())
            }
        }
    }
}
