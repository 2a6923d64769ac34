'use strict';
const express = require('express');
const zlib = require('zlib');

const { written } = require('./money');
const tag = require('./tag');

const shown = (item) => ({ ...item, price: written(item.price) });

// What /items answers: all of them, packed where the client takes that, or one.
module.exports = (items) => {
    const router = express.Router();
    router.get('/', (request, response) => {
        const content = JSON.stringify([...items.values()].map(shown));
        response.set({ 'Content-Type': 'application/json', 'X-Content-Tag': tag(content) });
        if (request.acceptsEncodings('gzip')) {
            response.set('Content-Encoding', 'gzip').send(zlib.gzipSync(content));
        } else {
            response.send(content);
        }
    });
    router.get('/:number', (request, response, next) => {
        const item = items.get(Number(request.params.number));
        return item ? response.json(shown(item)) : next();
    });
    return router;
};
