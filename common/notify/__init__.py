"""Messages when it matters: ``NOTIFY_URLS`` of the environment, sent by Apprise in separate processes."""
