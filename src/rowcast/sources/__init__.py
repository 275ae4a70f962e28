"""Sources of samples: recorded files, directories that grow, topics of brokers. Each follows
:class:`rowcast.streams.Source`; a client library is imported when a source that needs it is made."""
