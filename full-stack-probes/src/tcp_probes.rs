//! The probes of connections and their ladders.
//!
//! Kernel functions are the same on all rungs as far as there are any: tracepoints lie at their
//! beginnings or ends. Names were compared in the type information of Linux 5.10, 6.1, 6.12 and
//! 6.18.

use crate::Settings;
use crate::probes::{Attachment, Hook, Of, Place, Probe, Rung, RungKind};

/// Where the tracepoint of retransmissions tells their error, if it does.
pub const RETRANSMIT_ERROR: Place = Place {
    symbol: "RETRANSMIT_ERROR",
    hook: Hook::TpBtf("tcp_retransmit_skb"),
    of: Of::At(2),
};

/// What every kprobe may miss.
const KPROBE: &str = "what happens while another kprobe's program runs on that CPU";

/// Fields without which the table of connections cannot be kept, and others.
macro_rules! with_table {
    ($($other:literal),*) => {
        &[
            "TP_SND_UNA",
            "TP_SND_NXT",
            "TP_SND_WND",
            "TP_SRTT",
            "TP_MDEV",
            "TP_RTT_MIN",
            "TP_MSTAMP",
            $($other),*
        ]
    };
}

const TABLE: &[&str] = with_table!();
const RECEIVE: &[&str] = with_table!("SKB_CB", "CB_ACK_SEQ");
const RETRANSMIT: &[&str] = with_table!("ICSK_RETRANSMITS", "ICSK_CA_STATE");

fn always(_: &Settings) -> bool {
    true
}

const fn on(program: &'static str, hook: Hook, arguments: &'static [&'static str]) -> Attachment {
    Attachment {
        program,
        hook,
        arguments,
    }
}

const fn rung(kind: RungKind, attachments: &'static [Attachment], loss: &'static str) -> Rung {
    Rung {
        kind,
        attachments,
        loss,
    }
}

const fn probe(
    name: &'static str,
    loss: &'static str,
    rungs: &'static [Rung],
    fields: &'static [&'static str],
) -> Probe {
    Probe {
        name,
        loss,
        wanted: always,
        rungs,
        fields,
    }
}

use Hook::{Fentry, Fexit, Kprobe, TpBtf};
use RungKind::Function;

/// Changes of state.
pub const STATE: Probe = probe(
    "tcp_state",
    "connections that open, close or fail",
    &[
        rung(
            RungKind::TpBtf,
            &[on(
                "tcp_state",
                TpBtf("inet_sock_set_state"),
                &["sock", "", ""],
            )],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_state_entry",
                Fentry("tcp_set_state"),
                &["sock", ""],
            )],
            "ports that a watched process begins to listen on, until the next reconciliation",
        ),
        rung(
            RungKind::Kprobe,
            &[on(
                "tcp_state_kprobe",
                Kprobe("tcp_set_state"),
                &["sock", ""],
            )],
            "ports that a watched process begins to listen on, until the next reconciliation; \
             what happens while another kprobe's program runs on that CPU",
        ),
    ],
    TABLE,
);

/// Segments that come in.
pub const RECEIVED: Probe = probe(
    "tcp_receive",
    "acknowledgements and round-trip times",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_receive", TpBtf("tcp_probe"), &["sock", "sk_buff"])],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_receive_entry",
                Fentry("tcp_rcv_established"),
                &["sock", "sk_buff"],
            )],
            "",
        ),
        rung(
            RungKind::Kprobe,
            &[on(
                "tcp_receive_kprobe",
                Kprobe("tcp_rcv_established"),
                &["sock", "sk_buff"],
            )],
            KPROBE,
        ),
    ],
    RECEIVE,
);

/// Calls that send.
pub const SENT: Probe = probe(
    "tcp_send",
    "when data left; overdue acknowledgements are seen only after retransmissions",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_send", TpBtf("sock_send_length"), &["sock", ""])],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_send_exit",
                Fexit("tcp_sendmsg"),
                &["sock", "msghdr", ""],
            )],
            "sends that do not go through tcp_sendmsg (kernel TLS; before Linux 6.5 sendfile and \
             splice), until the next segment comes in",
        ),
        rung(
            RungKind::Kprobe,
            &[
                on(
                    "tcp_send_kprobe",
                    Kprobe("tcp_sendmsg"),
                    &["sock", "msghdr", ""],
                ),
                on(
                    "tcp_transmit_kprobe",
                    Kprobe("__tcp_transmit_skb"),
                    &["sock", "sk_buff", ""],
                ),
            ],
            "whether a call that sends fails; what happens while another kprobe's program runs on \
             that CPU",
        ),
    ],
    TABLE,
);

/// Segments that are sent again.
pub const RETRANSMITTED: Probe = probe(
    "tcp_retransmit",
    "retransmissions",
    &[
        rung(
            RungKind::TpBtf,
            &[on(
                "tcp_retransmit",
                TpBtf("tcp_retransmit_skb"),
                &["sock", "sk_buff"],
            )],
            "",
        ),
        rung(
            Function,
            &[
                on(
                    "tcp_retransmit_exit",
                    Fexit("tcp_retransmit_skb"),
                    &["sock", "sk_buff", ""],
                ),
                on(
                    "tcp_loss_probe_exit",
                    Fexit("__tcp_retransmit_skb"),
                    &["sock", "sk_buff", ""],
                ),
            ],
            "",
        ),
        rung(
            RungKind::Kprobe,
            &[
                on(
                    "tcp_retransmit_kprobe",
                    Kprobe("tcp_retransmit_skb"),
                    &["sock", "sk_buff", ""],
                ),
                on(
                    "tcp_loss_probe_kprobe",
                    Kprobe("__tcp_retransmit_skb"),
                    &["sock", "sk_buff", ""],
                ),
            ],
            "whether a retransmission left this host; what happens while another kprobe's program \
             runs on that CPU",
        ),
    ],
    RETRANSMIT,
);

/// SYN-ACKs that are sent again.
pub const SYN_ACK: Probe = probe(
    "tcp_synack",
    "retransmitted SYN-ACKs",
    &[
        rung(
            RungKind::TpBtf,
            &[on(
                "tcp_synack",
                TpBtf("tcp_retransmit_synack"),
                &["sock", "request_sock"],
            )],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_synack_exit",
                Fexit("tcp_rtx_synack"),
                &["sock", "request_sock"],
            )],
            "",
        ),
        rung(
            RungKind::Kprobe,
            &[on(
                "tcp_synack_kprobe",
                Kprobe("tcp_rtx_synack"),
                &["sock", "request_sock"],
            )],
            "whether a retransmission left this host; what happens while another kprobe's program \
             runs on that CPU",
        ),
    ],
    &[],
);

/// Resets that come in.
pub const RESET_IN: Probe = probe(
    "tcp_reset_in",
    "resets from peers",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_reset_in", TpBtf("tcp_receive_reset"), &["sock"])],
            "",
        ),
        rung(
            Function,
            &[on("tcp_reset_in_entry", Fentry("tcp_reset"), &["sock"])],
            "",
        ),
        rung(
            RungKind::Kprobe,
            &[on("tcp_reset_in_kprobe", Kprobe("tcp_reset"), &["sock"])],
            KPROBE,
        ),
    ],
    &[],
);

/// Resets that this host sends.
pub const RESET_OUT: Probe = probe(
    "tcp_reset_out",
    "resets that this host sends",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_reset_out", TpBtf("tcp_send_reset"), &["sock"])],
            "",
        ),
        rung(
            Function,
            &[
                on(
                    "tcp_reset_active_entry",
                    Fentry("tcp_send_active_reset"),
                    &["sock"],
                ),
                on("tcp_reset_v4_entry", Fentry("tcp_v4_send_reset"), &["sock"]),
                on("tcp_reset_v6_entry", Fentry("tcp_v6_send_reset"), &["sock"]),
            ],
            "whether a reset left this host",
        ),
        rung(
            RungKind::Kprobe,
            &[
                on(
                    "tcp_reset_active_kprobe",
                    Kprobe("tcp_send_active_reset"),
                    &["sock"],
                ),
                on(
                    "tcp_reset_v4_kprobe",
                    Kprobe("tcp_v4_send_reset"),
                    &["sock"],
                ),
                on(
                    "tcp_reset_v6_kprobe",
                    Kprobe("tcp_v6_send_reset"),
                    &["sock"],
                ),
            ],
            "whether a reset left this host; what happens while another kprobe's program runs on \
             that CPU",
        ),
    ],
    &[],
);

/// Errors.
pub const ERROR: Probe = probe(
    "tcp_error",
    "errors that ICMP reports on connections",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_error", TpBtf("inet_sk_error_report"), &["sock"])],
            "",
        ),
        rung(
            Function,
            &[on("tcp_error_entry", Fentry("sk_error_report"), &["sock"])],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_error_entry",
                Fentry("sock_def_error_report"),
                &["sock"],
            )],
            "errors of sockets that the kernel itself owns",
        ),
        rung(
            RungKind::Kprobe,
            &[on("tcp_error_kprobe", Kprobe("sk_error_report"), &["sock"])],
            KPROBE,
        ),
        rung(
            RungKind::Kprobe,
            &[on(
                "tcp_error_kprobe",
                Kprobe("sock_def_error_report"),
                &["sock"],
            )],
            "errors of sockets that the kernel itself owns; what happens while another kprobe's \
             program runs on that CPU",
        ),
    ],
    &[],
);

/// Sockets that are no more.
pub const DESTROYED: Probe = probe(
    "tcp_destroy",
    "slots of vanished connections until the next reconciliation",
    &[
        rung(
            RungKind::TpBtf,
            &[on("tcp_destroy", TpBtf("tcp_destroy_sock"), &["sock"])],
            "",
        ),
        rung(
            Function,
            &[on(
                "tcp_destroy_entry",
                Fentry("tcp_v4_destroy_sock"),
                &["sock"],
            )],
            "",
        ),
        rung(
            RungKind::Kprobe,
            &[on(
                "tcp_destroy_kprobe",
                Kprobe("tcp_v4_destroy_sock"),
                &["sock"],
            )],
            KPROBE,
        ),
    ],
    &[],
);
