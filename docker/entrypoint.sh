#!/bin/bash
# A command in the project's shell, as `. ./env.sh` makes it on a machine without a container.
set -e
. /opt/grape/env.sh
exec "$@"
