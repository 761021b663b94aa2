//! RIS Live, by a server that speaks as the real one does.

use std::time::Duration;

use authority::Authority;
use bgp_feed::{RisSettings, Stations};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::feed::{Feed, LIMIT, ip};
use crate::namespace;

const UPDATE: &str = r#"{"type":"ris_message","data":{"timestamp":1763861000.12,"peer":"192.0.2.9",
"peer_asn":"64500","id":"x","host":"rrc00.ripe.net","type":"UPDATE","path":[64500,64501,[64502,64503]],
"community":[[64500,7]],"origin":"IGP","announcements":[{"next_hop":"192.0.2.9","prefixes":["PREFIX"]}]}}"#;

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = timeout(LIMIT, listener.accept())
        .await
        .expect("nobody came")
        .unwrap();
    tokio_tungstenite::accept_async(stream).await.unwrap()
}

async fn said<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> serde_json::Value {
    match timeout(LIMIT, socket.next()).await.expect("nothing came") {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

#[test]
fn over_tls_only_an_authority_that_is_known_is_believed() {
    namespace::run(|| async {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::generate().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(authority.server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem).unwrap();
        let start = |ca_file| {
            Feed::start(Stations {
                ris: Some(RisSettings {
                    url: format!("wss://localhost:{port}/v1/ws/"),
                    ca_file,
                    prefixes: Vec::new(),
                    egress: "a".into(),
                    max_prefixes: 100,
                }),
                ..Stations::default()
            })
        };
        let accepted = || async {
            let (stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
            acceptor.accept(stream).await
        };

        let feed = start(None);
        assert!(accepted().await.is_err(), "it must not trust us");
        let refused = async {
            loop {
                let error = feed.handle.ris().await.unwrap().last_error;
                if let Some(error) = error {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let error = timeout(LIMIT, refused).await.unwrap();
        assert!(error.contains("certificate"), "{error}");
        feed.handle.stop().await;

        let mut feed = start(Some(ca_file));
        let stream = accepted().await.unwrap();
        let mut server = tokio_tungstenite::accept_async(stream).await.unwrap();
        assert_eq!(said(&mut server).await["type"], "ris_subscribe");
        send(&mut server, &UPDATE.replace("PREFIX", "203.0.113.0/24")).await;
        feed.up("192.0.2.9@ris").await;
        feed.routes("203.0.113.7", |routes| routes.len() == 1).await;
        assert!(feed.handle.ris().await.unwrap().connected);
        feed.handle.stop().await;
    });
}

#[test]
fn routes_come_and_are_stale_while_the_connection_is_lost() {
    namespace::run(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "ws://{}/v1/ws/?client=netwatch",
            listener.local_addr().unwrap()
        );
        let mut feed = Feed::start(Stations {
            ris: Some(RisSettings {
                url,
                ca_file: None,
                prefixes: vec!["203.0.113.0/24".parse().unwrap()],
                egress: "a".into(),
                max_prefixes: 100,
            }),
            ..Stations::default()
        });
        feed.handle
            .watch(vec![ip("203.0.113.7"), ip("198.51.100.7")]);
        let mut server = accept(&listener).await;
        let subscription = said(&mut server).await;
        assert_eq!(subscription["type"], "ris_subscribe");
        assert_eq!(subscription["data"]["prefix"], "203.0.113.0/24");
        assert_eq!(subscription["data"]["moreSpecific"], true);
        assert_eq!(said(&mut server).await["data"]["type"], "RIS_PEER_STATE");
        send(&mut server, r#"{"type":"ris_subscribe_ok","data":{}}"#).await;
        send(&mut server, "no JSON").await;
        send(&mut server, &UPDATE.replace("PREFIX", "203.0.113.0/24")).await;
        let id = "192.0.2.9@ris";
        feed.up(id).await;
        let routes = feed.routes("203.0.113.7", |routes| routes.len() == 1).await;
        let path: Vec<u32> = routes[0].route.as_path.iter().map(|asn| asn.0).collect();
        assert_eq!(path, [64500, 64501, 64502, 64503]);
        assert_eq!(routes[0].neighbor.to_string(), id);
        let status = feed.handle.ris().await.unwrap();
        assert!(status.connected);
        assert_eq!((status.messages, status.malformed), (3, 1));
        assert_eq!(status.peers[0].table.ipv4, 1);

        drop(server);
        let reason = feed.down(id).await;
        assert!(reason.contains("RIS Live"), "{reason}");
        feed.routes("203.0.113.7", |routes| routes.len() == 1 && routes[0].stale)
            .await;

        // It comes back by itself, and asks again.
        let mut server = accept(&listener).await;
        assert_eq!(said(&mut server).await["data"]["prefix"], "203.0.113.0/24");
        send(&mut server, &UPDATE.replace("PREFIX", "198.51.100.0/24")).await;
        feed.up(id).await;
        feed.routes("198.51.100.7", |routes| routes.len() == 1)
            .await;
        // What the peer did not say again is not known, and not withdrawn.
        let old = feed.routes("203.0.113.7", |routes| routes.len() == 1).await;
        assert!(old[0].stale);
        let withdrawal = UPDATE.replace(
            "\"announcements\":[{\"next_hop\":\"192.0.2.9\",\"prefixes\":[\"PREFIX\"]}]",
            "\"withdrawals\":[\"203.0.113.0/24\"]",
        );
        send(&mut server, &withdrawal).await;
        feed.routes("203.0.113.7", <[_]>::is_empty).await;
        let down = r#"{"type":"ris_message","data":{"peer":"192.0.2.9","peer_asn":"64500",
            "host":"rrc00.ripe.net","type":"RIS_PEER_STATE","state":"down"}}"#;
        send(&mut server, down).await;
        let reason = feed.down(id).await;
        assert!(
            reason.contains("rrc00.ripe.net lost its session"),
            "{reason}"
        );
        feed.handle.stop().await;
        // The client ends too.
        let end = async { while let Some(Ok(_)) = server.next().await {} };
        timeout(Duration::from_secs(10), end)
            .await
            .expect("it stays");
    });
}
