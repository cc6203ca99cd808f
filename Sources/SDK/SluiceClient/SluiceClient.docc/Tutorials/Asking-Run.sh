swift run ask 127.0.0.1:PORT ../sluice/data/ca.pem ../sluice/data/client.key demo 'What is a sluice?'
