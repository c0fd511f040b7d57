sleep 3; kill $P
