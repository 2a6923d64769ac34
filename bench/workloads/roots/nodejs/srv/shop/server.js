'use strict';
// The service: settings, catalogue and routes come from modules of their own, express from Debian's node-express.
const express = require('express');

const catalogue = require('./lib/catalogue');
const log = require('./lib/log');
const routes = require('./lib/routes');
const settings = require('./lib/settings');

const app = express();
app.disable('x-powered-by');
app.use(log.requests);
app.use('/items', routes(catalogue.load(settings.data)));
app.get('/health', (request, response) => response.json({ healthy: true }));
app.use((request, response) => response.status(404).json({ error: 'not found' }));

app.listen(settings.port, settings.address, () => {
    log.say(`listening on ${settings.address}:${settings.port}`);
});
