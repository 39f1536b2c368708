// The page of a broker: its status, and a chat over the JSON protocol (docs/protocol.md).
"use strict";

const $ = (id) => document.getElementById(id);
const PROTOCOL = "eventbus.json.v1";
const KEEP = 200; // messages shown
let token = "";
let socket = null;
let lastSeq = 0; // resume after it
let epoch = null;
let nextId = 1;
let retryMs = 500;

// ---- status ----

const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return (i ? n.toFixed(1) : n) + " " + units[i];
};
const duration = (s) => {
  const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
};
const SHOW = { bytes, uptime_s: duration };

function say(id, text) {
  $(id).textContent = text || "";
  $(id).hidden = !text;
}

async function showStatus() {
  try {
    const answer = await fetch("v1/stats", { headers: token ? { Authorization: "Bearer " + token } : {} });
    if (answer.status === 401) {
      $("token-form").hidden = false;
      say("status-error", "This broker wants a token.");
      return;
    }
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const stats = await answer.json();
    for (const cell of document.querySelectorAll("#status dd")) {
      const name = cell.id.slice(2);
      if (name in stats) cell.textContent = SHOW[name] ? SHOW[name](stats[name]) : String(stats[name]);
    }
    say("status-error", "");
  } catch (error) {
    say("status-error", "The broker does not answer: " + error.message);
  }
}

// ---- chat ----

function base64url(text) {
  const binary = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

function show(event) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const who = document.createElement("span");
  time.textContent = new Date(event.metadata.timestamp).toLocaleTimeString();
  who.className = "who";
  who.textContent = event.topic.slice("chat.".length);
  item.append(time, who, event.payload_encoding ? "(bytes that are not text)" : event.payload);
  const list = $("messages");
  list.append(item);
  while (list.children.length > KEEP) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}

function receive(text) {
  const message = JSON.parse(text);
  if (message.type === "event") {
    lastSeq = Math.max(lastSeq, message.seq);
    show(message);
  } else if (message.type === "ok" && message.epoch) {
    if (message.epoch !== epoch) lastSeq = message.last_seq;
    epoch = message.epoch;
  } else if (message.type === "gap" && message.epoch) {
    epoch = message.epoch;
    lastSeq = message.to_seq;
  } else if (message.type === "error") {
    say("chat-error", message.message);
  }
}

function connect() {
  const url = new URL("ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(url, token ? [PROTOCOL, "bearer." + base64url(token)] : [PROTOCOL]);
  socket.onopen = () => {
    retryMs = 500;
    $("connection").textContent = "connected";
    $("send").disabled = false;
    const request = { type: "subscribe", id: nextId++, pattern: "chat.*" };
    if (epoch) Object.assign(request, { starting_seq: lastSeq + 1, epoch });
    socket.send(JSON.stringify(request));
  };
  socket.onmessage = (event) => receive(event.data);
  socket.onclose = () => {
    $("connection").textContent = "not connected";
    $("send").disabled = true;
    setTimeout(connect, retryMs + Math.random() * 250);
    retryMs = Math.min(retryMs * 2, 10000);
  };
}

$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  say("chat-error", "");
  const topic = "chat." + $("name").value.trim();
  socket.send(JSON.stringify({ type: "publish", id: nextId++, data: { topic, payload: $("text").value }, ttl: 3600 }));
  $("text").value = "";
});

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("token-form").hidden = true;
  showStatus();
});

showStatus();
setInterval(showStatus, 2000);
connect();
