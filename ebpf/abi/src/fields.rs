/// The value of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Calls a macro with every kernel field that programs read: `SYMBOL: struct, path, size;`.
///
/// The symbol is a `u32` in the programs' `.rodata` that user space sets to the field's byte
/// offset. The path is from the struct on; anonymous members are followed, an array stands for its
/// first element, `|` separates names that kernels use for the same field. The size is what the
/// programs load; a kernel whose field is smaller counts as without it.
#[macro_export]
macro_rules! kernel_fields {
    ($apply:ident) => {
        $apply! {
            SK_FAMILY: "sock", "__sk_common.skc_family", 2;
            SK_STATE: "sock", "__sk_common.skc_state", 1;
            SK_DADDR: "sock", "__sk_common.skc_daddr", 4;
            SK_RCV_SADDR: "sock", "__sk_common.skc_rcv_saddr", 4;
            SK_V6_DADDR: "sock", "__sk_common.skc_v6_daddr", 16;
            SK_V6_RCV_SADDR: "sock", "__sk_common.skc_v6_rcv_saddr", 16;
            SK_DPORT: "sock", "__sk_common.skc_dport", 2;
            SK_NUM: "sock", "__sk_common.skc_num", 2;
            SK_COOKIE: "sock", "__sk_common.skc_cookie.counter", 8;
            SK_NET: "sock", "__sk_common.skc_net.net", 8;
            SK_PROTOCOL: "sock", "sk_protocol", 2;
            SK_ERR: "sock", "sk_err", 4;
            SK_ERR_SOFT: "sock", "sk_err_soft", 4;
            NET_INUM: "net", "ns.inum", 4;
            INET_SPORT: "tcp_sock", "inet_conn.icsk_inet.inet_sport", 2;
            TP_SND_UNA: "tcp_sock", "snd_una", 4;
            TP_SND_NXT: "tcp_sock", "snd_nxt", 4;
            TP_SND_WND: "tcp_sock", "snd_wnd", 4;
            TP_SRTT: "tcp_sock", "srtt_us", 4;
            TP_MDEV: "tcp_sock", "mdev_us", 4;
            TP_RTT_MIN: "tcp_sock", "rtt_min.s.v", 4;
            TP_RACK_RTT: "tcp_sock", "rack.rtt_us", 4;
            TP_MSTAMP: "tcp_sock", "tcp_mstamp", 8;
            ICSK_RETRANSMITS: "tcp_sock", "inet_conn.icsk_retransmits", 1;
            ICSK_PENDING: "tcp_sock", "inet_conn.icsk_pending", 1;
            ICSK_CA_STATE: "tcp_sock", "inet_conn.icsk_ca_state", 1;
            SKB_CB: "sk_buff", "cb", 48;
            CB_ACK_SEQ: "tcp_skb_cb", "ack_seq", 4;
            SK_RCVLOWAT: "sock", "sk_rcvlowat", 4;
            MSG_NAME: "msghdr", "msg_name", 8;
            MSG_NAMELEN: "msghdr", "msg_namelen", 4;
            CB_SEQ: "tcp_skb_cb", "seq", 4;
            CB_END_SEQ: "tcp_skb_cb", "end_seq", 4;
            SKB_DATA: "sk_buff", "data", 8;
            TP_WRITE_SEQ: "tcp_sock", "write_seq", 4;
            TP_BYTES_ACKED: "tcp_sock", "bytes_acked", 8;
            RQ_Q: "request", "q", 8;
            RQ_DISK: "request", "rq_disk", 8;
            RQ_FLAGS: "request", "cmd_flags", 4;
            RQ_LEN: "request", "__data_len", 4;
            RQ_START: "request", "start_time_ns", 8;
            Q_DISK: "request_queue", "disk", 8;
            GD_MAJOR: "gendisk", "major", 4;
            GD_MINOR: "gendisk", "first_minor", 4;
            TASK_PID: "task_struct", "pid", 4;
            TASK_TGID: "task_struct", "tgid", 4;
            TASK_COMM: "task_struct", "comm", 16;
            TASK_STATE: "task_struct", "__state|state", 4;
            TASK_FLAGS: "task_struct", "flags", 4;
            TASK_ON_CPU: "task_struct", "on_cpu", 4;
            TASK_SIGNAL: "task_struct", "signal", 8;
            SIGNAL_LIVE: "signal_struct", "live.counter", 4;
            TASK_CGROUPS: "task_struct", "cgroups", 8;
            CSS_CGROUP: "css_set", "dfl_cgrp", 8;
            CGROUP_NODE: "cgroup", "kn", 8;
            CGROUP_ROOT: "cgroup", "root", 8;
            ROOT_HIERARCHY: "cgroup_root", "hierarchy_id", 4;
            NODE_ID: "kernfs_node", "id", 8;
            NODE_NAME: "kernfs_node", "name", 8;
            NODE_PARENT: "kernfs_node", "__parent|parent", 8;
            BPRM_FILENAME: "linux_binprm", "filename", 8;
            BPRM_FILE: "linux_binprm", "file", 8;
            FILE_DENTRY: "file", "f_path.dentry", 8;
            DENTRY_NAME: "dentry", "d_name.name", 8;
        }
    };
}
