"""Each broker: its configuration as it stands in the result, how it starts on a free port and what it costs.

A broker lives in a folder of its own. `port` is where the load goes; `config` is what a reader needs to repeat it, with
the folder written as DIR and ports as PORT.
"""
import os
import re
import shlex
import subprocess
import time

from .procs import Process, Trouble, Missing, cpu_seconds, end_process, free_port, memory_kib


class Broker:
    name = ""
    package = None  # Debian's

    def __init__(self, folder, **settings):
        self.folder, self.settings, self.process = folder, settings, None
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def write_config(self, name, text):
        (self.folder / name).write_text(text)
        self.text = text

    def start(self):
        self.process = Process(self.name, self.command(), self.folder)
        try:
            self.process.wait_port(self.port)
        except Trouble:
            self.process.stop()
            raise

    def stop(self):
        if self.process is not None:
            self.process.stop()
            self.process = None

    def command(self):
        raise NotImplementedError

    @property
    def config(self):
        text = shlex.join(str(a) for a in self.command())
        if getattr(self, "text", None):
            text += "\n" + self.text.rstrip()
        return re.sub(r"\b127\.0\.0\.1:\d+|\b%d\b" % self.port, lambda m: "127.0.0.1:PORT" if ":" in m.group() else "PORT",
                      text.replace(str(self.folder), "DIR"))

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        return cpu_seconds(self.pid)

    def memory_kib(self):
        return memory_kib(self.pid)


class Eventbus(Broker):
    """Ours. settings: option=value for the command line; `start_s` is how long it took until it listened."""

    name = "eventbusd"
    program = None  # set by the runner: the release build's

    def command(self):
        if not os.access(self.program, os.X_OK):
            raise Missing("eventbusd is not built")
        options = [f"--{key.replace('_', '-')}={value}" for key, value in self.settings.items()]
        return [self.program, f"--listen=127.0.0.1:{self.port}", f"--db={self.folder / 'eventbus.db'}", "--log-level=warn", *options]

    @property
    def config(self):
        return super().config.replace(str(self.program), "eventbusd")

    def start(self):
        begin = time.monotonic()
        with open(self.folder / "eventbusd.log", "ab") as log:
            self.popen = subprocess.Popen([str(a) for a in self.command()], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                          stderr=log, start_new_session=True)
        line = self.popen.stdout.readline()
        self.start_s = time.monotonic() - begin
        if not line.startswith(b"listening on"):
            self.stop()
            raise Trouble("eventbusd does not start: " + (self.folder / "eventbusd.log").read_text(errors="replace")[-400:])

    def stop(self):
        if getattr(self, "popen", None) is not None:
            end_process(self.popen, 60)
            self.popen.stdout.close()
            self.popen = None

    @property
    def pid(self):
        return self.popen.pid


class Nats(Broker):
    """NATS core; with jetstream=True its file store, as it comes. settings: websocket=True sends the load there."""

    name = "nats-server"
    package = "nats-server"

    def __init__(self, folder, **settings):
        super().__init__(folder, **settings)
        plain, web = free_port(), free_port()
        text = f"listen: 127.0.0.1:{plain}\n"
        if settings.get("jetstream"):
            text += f'jetstream {{\n  store_dir: "{folder}"\n  max_memory_store: 1G\n  max_file_store: 20G\n}}\n'
        if settings.get("websocket"):
            text += f"websocket {{\n  listen: 127.0.0.1:{web}\n  no_tls: true\n}}\n"
        self.port = web if settings.get("websocket") else plain
        self.write_config("nats.conf", text)
        self.text = text.replace(str(folder), "DIR")

    def command(self):
        return ["nats-server", "-c", self.folder / "nats.conf"]


class Redis(Broker):
    """settings: appendfsync (default always)."""

    name = "redis-server"
    package = "redis-server"

    def command(self):
        return ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--dir", self.folder, "--save", "", "--appendonly", "yes",
                "--appendfsync", self.settings.get("appendfsync", "always"), "--daemonize", "no"]


class Nchan(Broker):
    """settings: workers (default auto, one a core)."""

    name = "nginx"
    package = "libnginx-mod-nchan"

    def __init__(self, folder, **settings):
        super().__init__(folder, **settings)
        workers = settings.get("workers", "auto")
        self.write_config("nginx.conf", f"""{'user root;' if os.geteuid() == 0 else ''}
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
worker_processes {workers};
worker_rlimit_nofile 65536;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  nchan_shared_memory_size 512M;
  server {{
    listen 127.0.0.1:{self.port};
    location ~ ^/pub/(.+)$ {{
      nchan_publisher;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 60s;
    }}
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
    }}
  }}
}}
""")

    def command(self):
        return ["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf"]


class Mosquitto(Broker):
    name = "mosquitto"
    package = "mosquitto"

    def __init__(self, folder, **settings):
        super().__init__(folder, **settings)
        self.write_config("mosquitto.conf", f"""listener {self.port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
autosave_interval 1800
max_queued_messages 0
max_inflight_messages 0
{'user root' if os.geteuid() == 0 else ''}
""")

    def command(self):
        return ["mosquitto", "-c", self.folder / "mosquitto.conf"]
