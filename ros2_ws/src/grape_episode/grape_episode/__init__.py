"""One rollout on disk: recorder, reader, typed Episode."""
