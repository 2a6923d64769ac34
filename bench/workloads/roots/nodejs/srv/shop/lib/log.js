'use strict';
const util = require('util');

function say(...words) {
    process.stderr.write(`shop: ${util.format(...words)}\n`);
}

// A line for each answer, once it has gone out.
function requests(request, response, next) {
    const began = process.hrtime.bigint();
    response.on('finish', () => {
        const ms = Number(process.hrtime.bigint() - began) / 1e6;
        say('%s %s %d %s ms', request.method, request.originalUrl, response.statusCode, ms.toFixed(1));
    });
    next();
}

module.exports = { say, requests };
