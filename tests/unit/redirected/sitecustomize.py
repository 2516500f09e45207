"""Sends what goes to Feishu, DingTalk and Slack to a local server that stands in for them (``STAND_IN``)."""

import os
from urllib.parse import urlsplit

HOSTS = ("open.feishu.cn", "oapi.dingtalk.com", "hooks.slack.com")

if os.environ.get("STAND_IN"):
    import requests

    send = requests.Session.send

    def to_stand_in(self, request, **options):
        parts = urlsplit(request.url)
        if parts.hostname not in HOSTS:
            raise OSError(f"the test would send to {parts.hostname}")
        request.url = f"{os.environ['STAND_IN']}/{parts.hostname}{parts.path}"
        return send(self, request, **options)

    requests.Session.send = to_stand_in
